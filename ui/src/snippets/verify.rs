// cargo add axum base64 hmac sha2 && cargo add tokio --features full
use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use std::time::{SystemTime, UNIX_EPOCH};

fn verified(headers: &HeaderMap, body: &[u8], key: &[u8]) -> Option<()> {
    let header = |name: &str| headers.get(name)?.to_str().ok();
    let sent_at = header("webhook-timestamp")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    if now.abs_diff(sent_at.parse().ok()?) > 300 {
        return None;
    }
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).ok()?;
    mac.update(format!("{}.{sent_at}.", header("webhook-id")?).as_bytes());
    mac.update(body);
    let matches = |one: &str| {
        let sum = STANDARD.decode(one.strip_prefix("v1,")?).ok()?;
        mac.clone().verify_slice(&sum).ok()
    };
    header("webhook-signature")?.split(' ').find_map(matches)
}

#[tokio::main]
async fn main() {
    let secret = std::env::var("PULSEHOOK_WEBHOOK_SECRET").expect("the secret is set");
    let key = STANDARD.decode(secret.trim_start_matches("whsec_")).expect("the secret is base64");
    let hook = post(async move |headers: HeaderMap, body: Bytes| match verified(&headers, &body, &key) {
        Some(()) => StatusCode::NO_CONTENT,
        None => StatusCode::UNAUTHORIZED,
    });
    let port = std::env::var("PORT").unwrap_or_else(|_| "8000".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await.expect("the port is free");
    axum::serve(listener, Router::new().route("/", hook)).await.expect("it serves");
}
