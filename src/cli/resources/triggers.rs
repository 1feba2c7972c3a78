//! Triggers of a webhook.

use anyhow::{Context as _, bail};
use clap::Subcommand;
use serde_json::{Map, Value};

use super::super::output;
use super::{OfWebhook, show_one};

#[derive(Debug, Subcommand)]
pub enum Triggers {
    /// Add a trigger to a webhook
    Create {
        #[command(flatten)]
        of: OfWebhook,
        /// `visitor_spike`, `goal_completion,goal_id=7`, `custom_event,event_name=Download`, `no_data,after=1h`, `milestone,metric=visitors,step=1000`, or a JSON object
        trigger: String,
    },
    /// Change the settings of a trigger
    Update {
        /// Id of the trigger
        id: String,
        #[command(flatten)]
        of: OfWebhook,
        /// What changes, such as threshold=80
        #[arg(required = true, value_name = "NAME=VALUE")]
        settings: Vec<String>,
    },
    /// Delete a trigger
    Delete {
        /// Id of the trigger
        id: String,
        #[command(flatten)]
        of: OfWebhook,
    },
}

impl Triggers {
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Create { of, trigger: text } => {
                let Value::Object(body) = trigger(&text)? else { bail!("the trigger must be an object") };
                let answer = of.connection.client()?.post(&of.path("triggers"), body).await?;
                show_one(&of.connection, &answer, "trigger");
            }
            Self::Update { id, of, settings } => {
                let mut body = Map::new();
                for setting in &settings {
                    let (name, value) = setting.split_once('=').context("settings look like threshold=80")?;
                    body.insert(name.to_owned(), setting_value(value));
                }
                let answer = of.connection.client()?.patch(&of.path_of("triggers", &id), body).await?;
                show_one(&of.connection, &answer, "trigger");
            }
            Self::Delete { id, of } => {
                of.connection.client()?.delete(&of.path_of("triggers", &id)).await?;
                output::hint("Deleted.");
            }
        }
        Ok(())
    }
}

/// `type,name=value,…`, or a JSON object.
pub(super) fn trigger(text: &str) -> anyhow::Result<Value> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).context("the trigger is not JSON");
    }
    let mut parts = text.split(',');
    let mut object = Map::new();
    object.insert("type".to_owned(), parts.next().unwrap_or_default().trim().into());
    for part in parts {
        let (name, value) = part.split_once('=').with_context(|| format!("\"{part}\" is not NAME=VALUE"))?;
        object.insert(name.trim().to_owned(), setting_value(value.trim()));
    }
    Ok(object.into())
}

/// Numbers and flags as such; ids and spans of time are texts.
fn setting_value(text: &str) -> Value {
    match text {
        "true" => true.into(),
        "false" => false.into(),
        _ => text.parse::<u64>().map_or_else(|_| text.into(), Value::from),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn triggers_are_short_to_write() {
        assert_eq!(
            trigger("visitor_spike,threshold=80,baseline=previous,cooldown=1h,shadow=true").unwrap(),
            json!({"type": "visitor_spike", "threshold": 80, "baseline": "previous", "cooldown": "1h", "shadow": true})
        );
        assert_eq!(trigger(r#"{"type":"goal_completion"}"#).unwrap(), json!({"type": "goal_completion"}));
        assert!(trigger("visitor_spike,threshold").is_err());
    }
}
