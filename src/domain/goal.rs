//! placeholder
use super::ids::{GoalId, SiteId};
use super::time::Timestamp;

#[derive(Debug, Clone, PartialEq)]
pub struct Goal {
    pub id: GoalId,
    pub site_id: SiteId,
    pub display_name: String,
    pub kind: GoalKind,
    pub custom_props: Vec<(String, String)>,
    pub currency: Option<String>,
    pub inserted_at: Timestamp,
}
#[derive(Debug, Clone, PartialEq)]
pub enum GoalKind {
    Event { name: String },
    Page { path: String },
    Scroll { path: String, threshold: u8 },
}
impl GoalKind {
    pub fn goal_type(&self) -> &'static str {
        "event"
    }
}
