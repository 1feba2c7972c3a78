//! The people of an account, and invitations.

use clap::Subcommand;

use super::super::client::{Connection, id_of};
use super::super::output;
use super::{confirm, object, show_list, show_one};
use crate::domain::access::Role;

#[derive(Debug, Subcommand)]
pub enum Members {
    /// List the members
    List {
        #[command(flatten)]
        connection: Connection,
    },
    /// Invite somebody: prints a link that you send them
    Invite {
        email: String,
        /// owner, admin, editor or viewer
        #[arg(long, default_value = "viewer")]
        role: Role,
        #[command(flatten)]
        connection: Connection,
    },
    /// List the invitations that can still be accepted
    Invitations {
        #[command(flatten)]
        connection: Connection,
    },
    /// Take an invitation back
    Revoke {
        /// Id of the invitation
        id: String,
        #[command(flatten)]
        connection: Connection,
    },
    /// Give a member another role
    Update {
        /// Id of the member
        id: String,
        /// owner, admin, editor or viewer
        #[arg(long)]
        role: Role,
        #[command(flatten)]
        connection: Connection,
    },
    /// Remove a member
    Remove {
        /// Id of the member
        id: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        connection: Connection,
    },
}

impl Members {
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List { connection } => {
                let answer = connection.client()?.get("/api/members").await?;
                show_list(&connection, &answer, "members", &["id", "email", "role", "inserted_at"]);
            }
            Self::Invite { email, role, connection } => {
                let body = object([("email", Some(email.into())), ("role", Some(role.as_str().into()))]);
                let answer = connection.client()?.post("/api/invitations", body).await?;
                if connection.json {
                    output::json(&answer);
                } else {
                    output::say(&output::plain(&answer["link"]));
                    output::hint("Send them this link; it works once, for seven days, and is not shown again.");
                }
            }
            Self::Invitations { connection } => {
                let answer = connection.client()?.get("/api/invitations").await?;
                show_list(&connection, &answer, "invitations", &["id", "email", "role", "invited_by", "expires_at"]);
            }
            Self::Revoke { id, connection } => {
                connection.client()?.delete(&format!("/api/invitations/{}", id_of(&id))).await?;
                output::hint("The link works no more.");
            }
            Self::Update { id, role, connection } => {
                let body = object([("role", Some(role.as_str().into()))]);
                let answer = connection.client()?.patch(&format!("/api/members/{}", id_of(&id)), body).await?;
                show_one(&connection, &answer, "member");
            }
            Self::Remove { id, yes, connection } => {
                confirm(yes, "Remove this member? They are signed out at once.")?;
                connection.client()?.delete(&format!("/api/members/{}", id_of(&id))).await?;
                output::hint("Removed.");
            }
        }
        Ok(())
    }
}
