//! Goals of a site.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::super::client::{Connection, id_of};
use super::super::output;
use super::{object, pairs, show_list, show_one, site_path};

#[derive(Debug, Subcommand)]
pub enum Goals {
    /// List the goals of a site
    List {
        /// Id or domain
        #[arg(long)]
        site: String,
        #[command(flatten)]
        connection: Connection,
    },
    /// Create a goal: a custom event, a page, or so much of a page seen
    Create(CreateGoal),
    /// Delete a goal
    Delete {
        /// Id of the goal
        id: String,
        /// Id or domain
        #[arg(long)]
        site: String,
        #[command(flatten)]
        connection: Connection,
    },
}

#[derive(Debug, Args)]
pub struct CreateGoal {
    /// Id or domain
    #[arg(long)]
    site: String,
    /// Name of a custom event
    #[arg(long, conflicts_with = "page_path")]
    event_name: Option<String>,
    /// Path of a page; * stands for any characters
    #[arg(long)]
    page_path: Option<String>,
    /// Percent of the page that must be seen
    #[arg(long)]
    scroll_threshold: Option<u8>,
    /// Name in lists and payloads
    #[arg(long)]
    display_name: Option<String>,
    /// Property that must have this value; up to three
    #[arg(long = "prop", value_name = "NAME=VALUE")]
    props: Vec<String>,
    #[command(flatten)]
    connection: Connection,
}

impl Goals {
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List { site, connection } => {
                let answer = connection.client()?.get(&format!("{}/goals", site_path(&site))).await?;
                show_list(
                    &connection,
                    &answer,
                    "goals",
                    &["id", "display_name", "goal_type", "event_name", "page_path"],
                );
            }
            Self::Create(goal) => {
                let props = pairs(&goal.props, '=')?;
                let body = object([
                    ("event_name", goal.event_name.map(Value::from)),
                    ("page_path", goal.page_path.map(Value::from)),
                    ("scroll_threshold", goal.scroll_threshold.map(Value::from)),
                    ("display_name", goal.display_name.map(Value::from)),
                    ("custom_props", (!props.is_empty()).then(|| props.into())),
                ]);
                let path = format!("{}/goals", site_path(&goal.site));
                let answer = goal.connection.client()?.post(&path, body).await?;
                show_one(&goal.connection, &answer, "goal");
            }
            Self::Delete { id, site, connection } => {
                connection.client()?.delete(&format!("{}/goals/{}", site_path(&site), id_of(&id))).await?;
                output::hint("Deleted.");
            }
        }
        Ok(())
    }
}
