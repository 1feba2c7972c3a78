//! `export` and `import config`: what one installation watches comes to another as a file, and a second time changes nothing.

use serde_json::{Value, json};

use crate::support::app::{SITE, text};
use crate::support::process::{Served, key_of, pulsehook};
use crate::support::{Database, on_both};

/// Somebody with an account of a server.
struct Somebody<'a> {
    database: &'a Database,
    served: &'a Served,
    key: String,
}

impl Somebody<'_> {
    /// Exit code, standard output, standard error.
    async fn says(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = pulsehook(self.database);
        command.args(arguments).env("PULSEHOOK_SERVER", &self.served.url).env("PULSEHOOK_KEY", &self.key);
        let output = command.output().await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    async fn run(&self, arguments: &[&str]) -> String {
        let (code, said, complained) = self.says(arguments).await;
        assert_eq!(code, 0, "{arguments:?}: {complained}");
        said
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.run(&[arguments, &["--json"]].concat()).await).unwrap()
    }
}

fn write(database: &Database, name: &str, text: &str) -> String {
    let path = database.folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

on_both!({
    /// The commands end at the same door as everybody.
    async fn neither_a_command_nor_a_file_leads_inside(database: Database) {
        let mut command = pulsehook(&database);
        command.env("PULSEHOOK_EGRESS_ALLOW", "").env("PULSEHOOK_EGRESS_ALLOW_HTTP", "false");
        let served = Served::run(command).await;
        let owner = Somebody { database: &database, served: &served, key: key_of(&database, "Owner").await };
        owner.run(&["sites", "create", SITE]).await;
        let create = ["webhooks", "create", "--site", SITE, "--name", "Hook", "--trigger", "goal_completion", "--url"];
        let made = owner.json(&[&create[..], &["https://a.example/hook"]].concat()).await;
        let exported = owner.run(&["export"]).await;
        owner.run(&["webhooks", "delete", text(&made["webhook"]["id"]), "--site", SITE, "--yes"]).await;
        for url in [
            "https://169.254.169.254/hook",
            "https://127.1/hook",
            "https://[::ffff:10.0.0.5]/hook",
            "https://localhost/hook",
            "http://a.example/hook",
            "https://a.example:6379/hook",
        ] {
            let (code, _, complained) = owner.says(&[&create[..], &[url]].concat()).await;
            assert!(code == 1 && complained.contains("url"), "{url}: {code} {complained}");
            let file = write(&database, "inside.toml", &exported.replace("https://a.example/hook", url));
            let (code, said, complained) = owner.says(&["import", "config", &file]).await;
            assert!(code != 0 && complained.contains("url"), "{url}: {code} {said} {complained}");
        }
        let listed = owner.json(&["webhooks", "list", "--site", SITE]).await;
        assert_eq!(listed["webhooks"], json!([]));
        assert!(served.stop().await.success());
    }

    async fn a_configuration_comes_to_another_server_and_stays_as_it_is(database: Database) {
        let served = Served::start(&database, None).await;
        let from = Somebody { database: &database, served: &served, key: key_of(&database, "From").await };
        from.run(&["sites", "create", SITE, "--timezone", "Europe/Berlin"]).await;
        let goal = from.json(&["goals", "create", "--site", SITE, "--event-name", "Signup"]).await;
        from.run(&["goals", "create", "--site", SITE, "--page-path", "/thanks"]).await;
        let trigger = format!("goal_completion,goal_id={}", text(&goal["goal"]["id"]));
        let stalled = format!("goal_stalled,goal_id={}", text(&goal["goal"]["id"]));
        let made = from
            .json(&[
                "webhooks",
                "create",
                "--site",
                SITE,
                "--url",
                "https://a.example/hook",
                "--name",
                "Chat",
                "--trigger",
                &trigger,
                "--trigger",
                "visitor_spike,threshold=80",
                "--trigger",
                &stalled,
                "--trigger",
                r#"{"type":"milestone","metric":"conversions","list":[10,100]}"#,
                "--trigger",
                "goal_completion,batch=15m",
                "--generate-secret",
                "--header",
                "X-Token: hidden-value",
                "--format",
                "slack",
                "--retry-schedule",
                "1m,5m",
            ])
            .await;
        let secret = text(&made["webhook"]["signing_secret"]).to_owned();
        let exported = from.run(&["export"]).await;
        assert!(!exported.contains(&secret) && !exported.contains("hidden-value"), "{exported}");
        assert!(exported.contains("signed = true") && exported.contains("x-token"), "{exported}");
        let file = write(&database, "here.toml", &exported);
        // Where it comes from nothing is to be done, in either spelling.
        assert!(from.run(&["import", "config", &file, "--prune"]).await.contains("Everything is as the file says."));
        let as_json = from.run(&["export", "--json", "--site", SITE]).await;
        let as_json = write(&database, "here.json", &as_json);
        assert!(from.run(&["import", "config", &as_json, "--prune"]).await.contains("Everything is as the file says."));

        // Another server: the site moves to another account of it.
        let there = Database::sqlite();
        let served_there = Served::start(&there, None).await;
        let to = Somebody { database: &there, served: &served_there, key: key_of(&there, "To").await };
        let (_, plan, hint) = to.says(&["import", "config", &file, "--dry-run"]).await;
        let lines: Vec<_> = plan.lines().collect();
        assert_eq!(lines[0], format!("+ site {SITE}"));
        assert!(lines.contains(&"+ webhook Chat → https://a.example/hook"), "{plan}");
        assert!(hint.contains("Nothing was changed."), "{hint}");
        assert_eq!(to.json(&["sites", "list"]).await["sites"], json!([]));
        let (code, said, hints) = to.says(&["import", "config", &file]).await;
        assert_eq!((code, said), (0, plan), "{hints}");
        assert!(hints.contains("is not signed here") && hints.contains("x-token"), "{hints}");
        assert!(to.run(&["import", "config", &file, "--prune"]).await.contains("Everything is as the file says."));
        let again = to.run(&["export"]).await;
        let unsigned = exported.lines().filter(|line| !line.starts_with("signed") && !line.starts_with("header_names"));
        assert_eq!(again.lines().collect::<Vec<_>>(), unsigned.collect::<Vec<_>>());
        // With the flag a new webhook gets a secret, which is shown once.
        let webhooks = to.json(&["webhooks", "list", "--site", SITE]).await;
        to.run(&["webhooks", "delete", text(&webhooks["webhooks"][0]["id"]), "--site", SITE, "--yes"]).await;
        let imported = to.json(&["import", "config", &file, "--generate-secrets"]).await;
        let new = text(&imported["secrets"][0]["signing_secret"]);
        assert!(new.starts_with("whsec_") && new != secret);
        assert_eq!(to.json(&["webhooks", "list", "--site", SITE]).await["webhooks"][0]["secret"], true);
        assert!(served_there.stop().await.success());
        assert!(served.stop().await.success());
    }

    async fn what_differs_is_changed_and_nothing_is_deleted_unasked(database: Database) {
        let served = Served::start(&database, None).await;
        let somebody = Somebody { database: &database, served: &served, key: key_of(&database, "Me").await };
        let before = r#"
            version = 1
            [[sites]]
            domain = "example.com"
            [[sites.goals]]
            event_name = "Signup"
            [[sites.goals]]
            event_name = "Old"
            [[sites.webhooks]]
            name = "Mine"
            url = "https://a.example"
            triggers = [{ type = "visitor_spike" }, { type = "goal_completion", goal = "Signup" }]
            [[sites.webhooks]]
            name = "Other"
            url = "https://b.example/"
            triggers = [{ type = "goal_completion" }]
        "#;
        let file = write(&database, "before.toml", before);
        somebody.run(&["import", "config", &file]).await;
        assert!(somebody.run(&["import", "config", &file]).await.contains("Everything is as the file says."));
        let after = r#"
            version = 1
            [[sites]]
            domain = "example.com"
            timezone = "Asia/Tokyo"
            [[sites.goals]]
            event_name = "Signup"
            [[sites.webhooks]]
            name = "Mine"
            url = "https://a.example/"
            format = "teams"
            active = false
            triggers = [{ type = "visitor_spike", threshold = 70 }, { type = "goal_completion", goal = "Signup" }]
        "#;
        let file = write(&database, "after.toml", after);
        let said = somebody.run(&["import", "config", &file]).await;
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(
            lines,
            [
                "~ site example.com: timezone Etc/UTC → Asia/Tokyo",
                "~ webhook Mine → https://a.example/: format json → teams, active true → false",
                "+ trigger visitor_spike for Mine",
            ]
        );
        assert_eq!(somebody.json(&["webhooks", "list", "--site", SITE]).await["webhooks"].as_array().unwrap().len(), 2);
        let planned = somebody.run(&["import", "config", &file, "--prune", "--dry-run"]).await;
        let lines: Vec<_> = planned.lines().collect();
        assert_eq!(
            lines,
            ["- trigger visitor_spike of Mine", "- webhook Other → https://b.example/", "- goal Old of example.com"]
        );
        assert_eq!(somebody.run(&["import", "config", &file, "--prune"]).await, planned);
        let webhooks = somebody.json(&["webhooks", "list", "--site", SITE]).await["webhooks"].clone();
        assert_eq!(webhooks.as_array().unwrap().len(), 1);
        assert_eq!((&webhooks[0]["format"], &webhooks[0]["active"]), (&json!("teams"), &json!(false)));
        assert_eq!(webhooks[0]["triggers"].as_array().unwrap().len(), 2);
        assert!(
            somebody.run(&["import", "config", &file, "--prune"]).await.contains("Everything is as the file says.")
        );
        assert!(served.stop().await.success());
    }

    async fn what_contradicts_itself_is_refused_with_its_place(database: Database) {
        let served = Served::start(&database, None).await;
        let somebody = Somebody { database: &database, served: &served, key: key_of(&database, "Me").await };
        let wrong = r#"
            version = 1
            sitse = []
            [[sites]]
            domain = "example.com"
            [[sites.goals]]
            event_name = "Signup"
            page_path = "/both"
            [[sites.webhooks]]
            name = "Mine"
            url = "https://a.example/"
            triggers = [{ type = "visitor_spike", threshold = 0 }, { type = "goal_completion", goal_id = "7" }]
            [[sites.webhooks]]
            name = "Mine"
            url = "https://a.example"
            secret = "whsec_abc"
            triggers = [{ type = "goal_completion" }, { type = "goal_completion" }]
            [[sites]]
            domain = "Example.com"
            [[sites]]
            domain = " "
            [[sites.webhooks]]
            name = ""
            url = 7
            triggers = [{ type = "goal_completion" }]
        "#;
        let file = write(&database, "wrong.toml", wrong);
        let (code, _, said) = somebody.says(&["import", "config", &file]).await;
        assert_eq!(code, 1);
        for sentence in [
            "nothing was changed",
            "sitse is not known here",
            "sites[0].goals[0].",
            "sites[0].webhooks[0].triggers[0].threshold must be a whole number from 1 to 10000",
            "sites[0].webhooks[0].triggers[1].goal_id belongs to one server",
            "sites[0].webhooks[1].secret is not known here",
            "sites[0].webhooks[1] has the name and url of sites[0].webhooks[0] too",
            "sites[0].webhooks[1].triggers[1] is the same as sites[0].webhooks[1].triggers[0]",
            "sites[1].domain is that of sites[0] too",
            "sites[2].domain can't be blank",
            "sites[2].webhooks[0].name can't be blank",
            "sites[2].webhooks[0].url must be a text",
        ] {
            assert!(said.contains(sentence), "{sentence}: {said}");
        }
        assert_eq!(somebody.json(&["sites", "list"]).await["sites"], json!([]));
        // What only the server can judge bears its place too, and what came before it stays.
        let refused = r#"{"version": 1, "sites": [{"domain": "example.com", "webhooks": [
            {"name": "Mine", "url": "http://10.0.0.1/", "triggers": [{"type": "goal_completion"}]},
            {"name": "Lost", "url": "https://a.example/", "triggers": [{"type": "goal_completion", "goal": "None"}]}]}]}"#;
        let file = write(&database, "refused.json", refused);
        let (code, _, said) = somebody.says(&["import", "config", &file]).await;
        assert!(
            code == 1 && said.contains("sites[0].webhooks[1].triggers[0].goal \"None\" is no goal of example.com"),
            "{said}"
        );
        let file = write(&database, "refused.json", &refused.replace(", \"goal\": \"None\"", ""));
        let (code, said, complained) = somebody.says(&["import", "config", &file]).await;
        assert!(
            code == 1 && complained.contains("sites[0].webhooks[0]: url is inside a private network"),
            "{complained}"
        );
        assert_eq!(said, "+ site example.com\n");
        let (code, _, said) = somebody.says(&["import", "config", "/nowhere.toml"]).await;
        assert!(code == 1 && said.contains("/nowhere.toml"), "{said}");
        assert!(served.stop().await.success());
    }
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shells_complete_commands() {
    crate::support::in_time(async {
        let database = Database::sqlite();
        for (shell, begins) in [("bash", "_pulsehook()"), ("zsh", "#compdef pulsehook"), ("fish", "__fish_pulsehook")] {
            let output = pulsehook(&database).args(["completions", shell]).output().await.unwrap();
            let script = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success() && script.contains(begins), "{shell}");
            for command in ["listen", "backup", "export", "rotate-key"] {
                assert!(script.contains(command), "{shell} does not know {command}");
            }
        }
        let output = pulsehook(&database).args(["completions", "telepathy"]).output().await.unwrap();
        assert_eq!(output.status.code(), Some(2));
        // Nothing of ours is coloured but what clap writes, and that goes by NO_COLOR.
        let mut command = pulsehook(&database);
        command.env("NO_COLOR", "1").env("CLICOLOR_FORCE", "1").args(["frobnicate"]);
        let output = command.output().await.unwrap();
        assert!(!output.stderr.contains(&0x1b), "{}", String::from_utf8_lossy(&output.stderr));
    })
    .await;
}
