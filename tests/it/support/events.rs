//! A listener of a site's stream.

use pulsehook::http::stream::Streams;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::app::{SITE, TestApp};

/// An event as it came.
#[derive(Debug, Clone)]
pub struct Told {
    pub id: i64,
    pub event: String,
    pub data: Value,
}

pub struct Listener {
    response: reqwest::Response,
    text: String,
    /// Of the last event, or of what stands for all before.
    pub last_id: Option<i64>,
    /// Comments so far.
    pub heartbeats: usize,
}

impl Listener {
    pub async fn of(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.expect("the server answers");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new(), last_id: None, heartbeats: 0 }
    }

    /// Listens to the site most tests use, and has heard that it begins.
    pub async fn start(app: &TestApp) -> Self {
        let request = app.request(Method::GET, &format!("/api/sites/{SITE}/stream")).bearer_auth(&app.key);
        Self::begun(request).await
    }

    /// The same from where another was.
    pub async fn resume(app: &TestApp, id: i64) -> Self {
        let request = app.request(Method::GET, &format!("/api/sites/{SITE}/stream")).bearer_auth(&app.key);
        Self::of(request.header("last-event-id", id.to_string())).await
    }

    pub async fn begun(request: reqwest::RequestBuilder) -> Self {
        let mut listener = Self::of(request).await;
        while listener.last_id.is_none() {
            assert!(listener.read_block().await.expect("it begins").is_none(), "nothing happened yet");
        }
        listener
    }

    /// The next event; `None` when the stream is over.
    pub async fn next(&mut self) -> Option<Told> {
        loop {
            match self.read_block().await? {
                Some(told) => return Some(told),
                None => continue,
            }
        }
    }

    /// Has everybody look, and answers the next event.
    pub async fn now(&mut self, app: &TestApp) -> Told {
        Streams::look(&app.api.streams, &app.api).await;
        self.next().await.expect("the stream goes on")
    }

    /// The next events, up to one of this kind whose data has this value.
    pub async fn until(&mut self, event: &str, field: &str, value: &str) -> Vec<Told> {
        let mut all = Vec::new();
        loop {
            let told = self.next().await.unwrap_or_else(|| panic!("no {event} with {field} {value}: {all:#?}"));
            let done = told.event == event && told.data[field] == value;
            all.push(told);
            if done {
                return all;
            }
        }
    }

    /// Waits for the next comment.
    pub async fn heartbeat(&mut self) {
        let before = self.heartbeats;
        while self.heartbeats == before {
            self.read_block().await.expect("it goes on");
        }
    }

    /// Reads to the end.
    pub async fn ended(mut self) {
        while self.next().await.is_some() {}
    }

    async fn read_block(&mut self) -> Option<Option<Told>> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                return Some(self.understand(&block));
            }
            let chunk = self.response.chunk().await.ok()??;
            self.text.push_str(std::str::from_utf8(&chunk).expect("frames are whole"));
        }
    }

    fn understand(&mut self, block: &str) -> Option<Told> {
        let (mut event, mut data) = (None, None);
        for line in block.lines() {
            match line.split_once(": ").expect("a field") {
                ("", _) => self.heartbeats += 1,
                ("id", id) => {
                    let id = id.parse().expect("a number");
                    assert!(self.last_id.is_none_or(|last| last <= id), "{id} comes after {:?}", self.last_id);
                    self.last_id = Some(id);
                }
                ("event", name) => event = Some(name.to_owned()),
                ("data", text) => data = Some(serde_json::from_str(text).expect("data is JSON")),
                ("retry", _) => {}
                other => panic!("{other:?}"),
            }
        }
        Some(Told { id: self.last_id?, event: event?, data: data? })
    }
}
