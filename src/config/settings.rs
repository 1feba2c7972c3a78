//! Every setting as people meet it.

/// One setting as people meet it.
#[derive(Debug)]
pub struct Setting {
    pub name: &'static str,
    /// As shown in the help; an empty text means there is none.
    pub default: &'static str,
    pub help: &'static str,
}

/// Every setting there is.
pub const SETTINGS: &[Setting] = &[
    Setting { name: "listen", default: "127.0.0.1:8080", help: "Address and port to listen on" },
    Setting { name: "base_url", default: "http://LISTEN", help: "Address under which people reach this server" },
    Setting { name: "data_dir", default: "./pulsehook-data", help: "Folder for databases and the master key" },
    Setting {
        name: "database_url",
        default: "sqlite://DATA_DIR/pulsehook.db",
        help: "Configuration and queue: sqlite://… for one node, postgres://… for several",
    },
    Setting {
        name: "analytics_url",
        default: "sqlite://DATA_DIR/analytics.db",
        help: "Where traffic is kept: sqlite://…, or clickhouse://user:password@host:8123/database (clickhouses:// for TLS)",
    },
    Setting {
        name: "directory",
        default: "own",
        help: "Who knows accounts, sites and goals: own, or plausible with its plausible_database_url",
    },
    Setting {
        name: "plausible_database_url",
        default: "",
        help: "Plausible's PostgreSQL, read only: postgres://user:password@host/database",
    },
    Setting {
        name: "plausible_secret_key_base",
        default: "",
        help: "Plausible's SECRET_KEY_BASE, if its API keys are to work here",
    },
    Setting {
        name: "master_key",
        default: "generated into DATA_DIR/master.key with SQLite",
        help: "32 bytes in base64 that encrypt secrets; several, newest first, separated by commas",
    },
    Setting { name: "max_webhooks_per_account", default: "10", help: "Webhooks an account may have" },
    Setting { name: "max_sites_per_account", default: "10000", help: "Sites an account may have" },
    Setting {
        name: "api_rate",
        default: "500",
        help: "Requests a second one key or session may make, ten times that at once; 0 for as many as it likes",
    },
    Setting { name: "sign_up", default: "false", help: "Whether strangers may sign up for an account of their own" },
    Setting {
        name: "evaluation_interval",
        default: "1s, or 5s with ClickHouse",
        help: "Longest time between two looks at the traffic",
    },
    Setting {
        name: "egress_allow",
        default: "",
        help: "Networks webhooks may reach although they are private, such as 127.0.0.0/8,10.1.0.0/16",
    },
    Setting {
        name: "egress_deny",
        default: "",
        help: "Networks webhooks may not reach although they are public, such as your own; wins over egress_allow",
    },
    Setting {
        name: "egress_nat64_prefixes",
        default: "",
        help: "Behind NAT64: its prefixes, such as 64:ff9b::/96; what is behind them is judged by its IPv4 address",
    },
    Setting { name: "egress_allow_http", default: "false", help: "Whether webhooks may be plain http" },
    Setting {
        name: "role",
        default: "api,ingest,engine",
        help: "What this process does; several nodes over PostgreSQL may share it out",
    },
    Setting {
        name: "endpoint_rate",
        default: "50",
        help: "Attempts a second at one webhook, unless it says otherwise; 0 for as many as it takes",
    },
    Setting { name: "endpoint_in_flight", default: "16", help: "Attempts under way at once at one webhook" },
    Setting { name: "host_in_flight", default: "64", help: "Attempts under way at once at one host" },
    Setting {
        name: "in_flight",
        default: "2048, or what open files allow",
        help: "Attempts under way at once in this process",
    },
    Setting {
        name: "max_connections",
        default: "10000, or what open files allow",
        help: "Connections of clients held at once; whoever comes then is answered 503",
    },
    Setting {
        name: "max_connections_per_address",
        default: "1000",
        help: "The same of one address that is none of trusted_proxies; whoever opens more is answered 429",
    },
    Setting { name: "egress_ca", default: "", help: "PEM file of further certificate authorities webhooks may use" },
    Setting {
        name: "trusted_proxies",
        default: "loopback and private networks",
        help: "Networks whose X-Forwarded-For is believed",
    },
    Setting {
        name: "spill_limit",
        default: "1GiB",
        help: "With a ClickHouse of our own: events kept in DATA_DIR/spill while it does not take them, before new ones are refused",
    },
    Setting { name: "retention", default: "30d", help: "How long deliveries are kept" },
    Setting { name: "audit_retention", default: "365d", help: "How long audit logs are kept" },
    Setting { name: "log_format", default: "text on a terminal, else json", help: "text or json" },
    Setting { name: "log_level", default: "info", help: "error, warn, info, debug or trace" },
];
