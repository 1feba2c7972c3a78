//! How the whole installation is, for those who run it: nodes, queue, how far traffic was looked at. Nothing of anybody's
//! sites is in it.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::auth::Asking;
use super::error::{ApiError, Problem, Result};
use crate::analytics::Analytics;
use crate::domain::access::Role;
use crate::store::shards::{SHARDS, Seen};

#[derive(Serialize, ToSchema)]
pub struct OperationAnswer {
    /// Every process that was seen in the last day.
    nodes: Vec<NodeView>,
    shards: ShardsView,
    queue: QueueView,
    evaluation: EvaluationView,
    traffic: TrafficView,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Node)]
pub struct NodeView {
    id: String,
    version: String,
    /// `api`, `ingest` and `engine`, as far as it does them.
    roles: Vec<String>,
    /// Parts of the sites it works for, of `shards.total`.
    shards: i64,
    #[schema(format = DateTime)]
    started_at: String,
    /// Since it last said that it lives; it says so every five seconds.
    unseen_seconds: i64,
}

#[derive(Serialize, ToSchema)]
pub struct ShardsView {
    total: i32,
    /// Those somebody works for. What belongs to the others waits.
    held: i64,
}

#[derive(Serialize, ToSchema)]
pub struct QueueView {
    /// What is owed, retries that wait for their time included.
    deliveries: i64,
    /// When the oldest of it is, or was, to be tried.
    #[schema(format = DateTime)]
    oldest_due_at: Option<String>,
}

/// One of the two: our own file has an order, and what is asked of ClickHouse a time.
#[derive(Serialize, ToSchema)]
pub struct EvaluationView {
    /// Hits this node took in that were not looked at when it last noted how far it is, which it does every five seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    hits_behind: Option<i64>,
    /// Up to when the traffic of every site was looked at; noted every 30 seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    looked_until: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct TrafficView {
    /// Of the newest hit of the last day, of any site.
    #[schema(format = DateTime)]
    newest_at: Option<String>,
    hits_last_hour: u64,
}

/// How the installation is: nodes, queue, noticing, traffic
#[utoipa::path(get, path = "/api/operation", tag = "operation", security(("key" = []), ("session" = [])),
    responses((status = 200, body = OperationAnswer), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 503, body = Problem)))]
pub async fn show_operation(State(api): State<Api>, asking: Asking) -> Result<Json<OperationAnswer>> {
    asking.of_the_account()?;
    asking.at_least(Role::Admin)?;
    let now = api.clock.now();
    let nodes = api.store.operator_nodes(now).await?;
    let depth = api.store.operator_depth().await?;
    let fresh = api.analytics.freshness(now).await.map_err(ApiError::unavailable)?;
    let evaluation = evaluation(&api, &nodes).await?;
    Ok(Json(OperationAnswer {
        shards: ShardsView { total: SHARDS, held: nodes.iter().map(|node| node.shards).sum() },
        nodes: nodes.into_iter().map(NodeView::from).collect(),
        queue: QueueView {
            deliveries: depth.deliveries,
            oldest_due_at: depth.oldest_due_at.map(|moment| moment.to_string()),
        },
        evaluation,
        traffic: TrafficView {
            newest_at: fresh.newest_at.map(|moment| moment.to_string()),
            hits_last_hour: fresh.hits_last_hour,
        },
    }))
}

async fn evaluation(api: &Api, nodes: &[Seen]) -> Result<EvaluationView> {
    match &api.analytics {
        Analytics::Embedded(embedded) => {
            let newest = embedded.last_seq().await.map_err(ApiError::unavailable)?;
            let seen = api.store.operator_watermark_of(embedded.source()).await?;
            let hits_behind = seen.map(|seen| (newest.0 - seen).max(0));
            Ok(EvaluationView { hits_behind, looked_until: None })
        }
        Analytics::ClickHouse(_) => {
            let looked_until = nodes.iter().filter_map(|node| node.looked_until).min();
            Ok(EvaluationView { hits_behind: None, looked_until: looked_until.map(|moment| moment.to_string()) })
        }
    }
}

impl From<Seen> for NodeView {
    fn from(node: Seen) -> Self {
        Self {
            id: node.id.to_string(),
            version: node.version,
            roles: node.roles.split(',').map(|role| role.trim().to_owned()).collect(),
            shards: node.shards,
            started_at: node.started_at.to_string(),
            unseen_seconds: node.unseen_micros.max(0) / 1_000_000,
        }
    }
}
