//! What is found out about an address before a webhook is made of it: one step after the other, each with a sentence
//! somebody can act on. Advice, never a condition: a webhook is judged by policy alone.
//!
//! Nothing here tells where a name leads or what is behind an address that webhooks may not reach: whatever that is, the
//! findings are the same.

use serde::Serialize;
use url::Url;

use super::address::AddressPolicy;
use super::endpoint_url::{EndpointUrl, UrlProblem};
use super::event::Event;
use super::outcome::{Outcome, Stage};
use super::signature::SigningSecret;

/// What is looked at, in the order it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Whether it is an address at all.
    Syntax,
    Https,
    /// Whether webhooks may reach it: as it is written, and after its name was looked up.
    Address,
    Dns,
    Connection,
    Certificate,
    /// A request, as a delivery would be made.
    Ping,
}

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Ok,
    Failed,
    Skipped,
}

/// One step, told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub step: Step,
    pub state: State,
    /// What was found.
    pub message: String,
    /// What to do about it, where something can be done.
    pub fix: Option<String>,
}

/// What somebody wants to know.
#[derive(Debug)]
pub struct Wanted {
    pub url: String,
    /// What is to be sent once the address is found to be good.
    pub ping: Option<Ping>,
}

/// A request that is made to see what comes of it. It is in nobody's list of deliveries.
#[derive(Debug)]
pub struct Ping {
    pub event: Event,
    pub secret: SigningSecret,
}

/// How far a check came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Policy refuses it as it is written; nobody was asked anything.
    Refused { at: Step, problem: UrlProblem },
    /// There is no connection.
    Unreachable { url: EndpointUrl, at: Step, outcome: Outcome },
    /// A connection was opened; what came of the ping, if there was one.
    Reached { url: EndpointUrl, ping: Option<Outcome> },
}

/// The address, if policy has nothing against it; otherwise the step at which it has.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn judge(text: &str, policy: &AddressPolicy) -> Result<EndpointUrl, Verdict> {
    EndpointUrl::parse(text, policy).map_err(|problem| {
        let at = match problem {
            UrlProblem::Empty
            | UrlProblem::TooLong
            | UrlProblem::Characters
            | UrlProblem::Cut
            | UrlProblem::Unreadable
            | UrlProblem::Credentials
            | UrlProblem::Fragment => Step::Syntax,
            // Without any scheme it is no address at all.
            UrlProblem::NotHttps if Url::parse(text).is_err() => Step::Syntax,
            UrlProblem::NotHttps => Step::Https,
            UrlProblem::Host | UrlProblem::Port(_) | UrlProblem::Private => Step::Address,
        };
        Verdict::Refused { at, problem }
    })
}

impl Verdict {
    /// Every step in its order, up to the ping if one was wanted.
    pub fn findings(&self, wants_ping: bool) -> Vec<Finding> {
        let steps = [Step::Syntax, Step::Https, Step::Address, Step::Dns, Step::Connection, Step::Certificate];
        let steps = steps.into_iter().chain(wants_ping.then_some(Step::Ping));
        steps.map(|step| self.finding(step)).collect()
    }

    fn finding(&self, step: Step) -> Finding {
        let (stopped_at, failure) = match self {
            Self::Refused { at, problem } => (Some(*at), Some(refused(*problem))),
            Self::Unreachable { at, outcome, .. } => (Some(*at), Some(failed(outcome))),
            Self::Reached { ping: Some(outcome), .. } if !outcome.is_success() => {
                (Some(Step::Ping), Some(failed(outcome)))
            }
            Self::Reached { .. } => (None, None),
        };
        match (stopped_at, failure) {
            (Some(at), Some((message, fix))) if at == step => {
                Finding { step, state: State::Failed, message, fix: Some(fix) }
            }
            // It comes first in the list, and is judged once the name was looked up.
            (Some(Step::Dns), _) if step == Step::Address => skipped(step, "There is no address to judge yet."),
            (Some(at), _) if at < step => skipped(step, "Not looked at, because of what is wrong above."),
            _ => self.passed(step),
        }
    }

    fn passed(&self, step: Step) -> Finding {
        let url = match self {
            Self::Refused { .. } => None,
            Self::Unreachable { url, .. } | Self::Reached { url, .. } => Some(url),
        };
        let is_plain = url.is_some_and(|url| !url.is_https());
        let message = match step {
            Step::Syntax => "The address is written as it should be.",
            Step::Https if is_plain => {
                return Finding {
                    step,
                    state: State::Ok,
                    message: "Plain http, which this server allows.".to_owned(),
                    fix: Some("Use https:// if you can: others can read and change what goes over http://.".to_owned()),
                };
            }
            Step::Https => "It starts with https://.",
            Step::Address => "Webhooks may reach it.",
            Step::Dns if url.is_some_and(|url| !url.is_name()) => {
                return skipped(step, "The address names no host, so there is nothing to look up.");
            }
            Step::Dns => "The host name was found.",
            Step::Connection => "A connection could be opened.",
            Step::Certificate if is_plain => return skipped(step, "There is none without https://."),
            Step::Certificate => "The certificate is valid for this host.",
            Step::Ping => "The endpoint took the request and answered with success.",
        };
        Finding { step, state: State::Ok, message: message.to_owned(), fix: None }
    }
}

fn skipped(step: Step, message: &str) -> Finding {
    Finding { step, state: State::Skipped, message: message.to_owned(), fix: None }
}

/// One text for all of them, so that nobody learns anything about what is there.
fn forbidden() -> (String, String) {
    (
        "Webhooks may not reach this address.".to_owned(),
        "Use a public address. Self-hosting? Ask your administrator to allow it (egress_allow).".to_owned(),
    )
}

fn refused(problem: UrlProblem) -> (String, String) {
    let fix = match problem {
        UrlProblem::Host | UrlProblem::Private => return forbidden(),
        UrlProblem::Empty | UrlProblem::Unreadable => "Write it like https://hooks.example.com/pulsehook.",
        UrlProblem::NotHttps => "Write it like https://hooks.example.com/pulsehook; plain http:// is not sent to.",
        UrlProblem::TooLong => "Use a shorter address.",
        UrlProblem::Cut => "Ask somebody who may edit the webhook for the whole address.",
        UrlProblem::Characters => "Write spaces as %20, and leave out what does not belong to it.",
        UrlProblem::Credentials => {
            return (
                "The address must not contain a user name or password.".to_owned(),
                "Send them in a custom header of the webhook, such as Authorization.".to_owned(),
            );
        }
        UrlProblem::Fragment => "Leave out the # and what follows.",
        UrlProblem::Port(_) => "Use the port of a web server, such as 443 or 8443.",
    };
    (format!("The address {problem}."), fix.to_owned())
}

fn failed(outcome: &Outcome) -> (String, String) {
    let (message, fix) = match outcome {
        Outcome::Responded { status, location } => return answered(*status, location.as_deref()),
        Outcome::Timeout(Stage::Connect) => {
            ("The connection could not be opened in time.", "Check that the server is up and its firewall lets us in.")
        }
        Outcome::Timeout(Stage::Tls) => {
            ("The TLS handshake did not finish in time.", "Check that the port really speaks HTTPS.")
        }
        Outcome::Timeout(Stage::Response) => (
            "The endpoint took the request but did not answer within 15 seconds.",
            "Answer first and do the work afterwards.",
        ),
        Outcome::DnsNotFound => {
            ("The host name does not exist.", "Check its spelling, or add the DNS record. It may be saved as it is.")
        }
        Outcome::DnsFailed | Outcome::DnsTimeout => (
            "The host name could not be looked up just now.",
            "Check again shortly. If it stays like this, look at the name servers of the domain.",
        ),
        Outcome::ForbiddenAddress | Outcome::ForbiddenUrl { .. } => return forbidden(),
        Outcome::ConnectRefused => {
            ("Nothing listens at this address and port.", "Start the receiver, or correct the port.")
        }
        Outcome::Unreachable => {
            ("There is no route to the endpoint's address.", "Check its DNS records and its network.")
        }
        Outcome::ConnectionReset => {
            ("The endpoint cut the connection while we were talking.", "Look into its logs and those of its proxy.")
        }
        Outcome::ClosedEarly => {
            ("The endpoint closed the connection without an answer.", "Look into its logs; it may have crashed.")
        }
        Outcome::TlsExpired => {
            ("The certificate has expired or is not valid yet.", "Renew it, or set the clock of who made it.")
        }
        Outcome::TlsWrongName => {
            ("The certificate is for another host name.", "Install one for this name, or correct the address.")
        }
        Outcome::TlsUntrusted => (
            "The certificate is not signed by an authority we trust.",
            "Install a certificate of a public authority, with its intermediate certificates.",
        ),
        Outcome::TlsNoCommonParameters => {
            ("The endpoint offers no TLS version or cipher we accept.", "Enable TLS 1.2 or 1.3 with a modern cipher.")
        }
        Outcome::TlsFailed => {
            ("The endpoint does not speak TLS properly.", "Check that this port serves HTTPS and not plain HTTP.")
        }
        Outcome::InvalidHttp => ("The endpoint answered with something that is not HTTP.", "Check what listens there."),
        Outcome::HeadersTooLarge => {
            ("The endpoint answered with more headers than we read (64, or 16 KiB).", "Send fewer of them.")
        }
        Outcome::Expired | Outcome::Internal { .. } => {
            ("Something went wrong on our side.", "Check again shortly; if it stays like this, ask your administrator.")
        }
    };
    (message.to_owned(), fix.to_owned())
}

/// What a ping was answered that is no success.
fn answered(status: u16, location: Option<&str>) -> (String, String) {
    let message = match (status, location) {
        (300..=399, Some(location)) => {
            format!("The endpoint redirects to {location} ({status}), which is not followed.")
        }
        (300..=399, None) => format!("The endpoint redirects ({status}), which is not followed."),
        (401 | 403, _) => format!("The endpoint refused the request ({status})."),
        (404, _) => "The endpoint does not know this path (404).".to_owned(),
        (405, _) => "The endpoint does not accept POST (405).".to_owned(),
        (429, _) => "The endpoint asks us to slow down (429).".to_owned(),
        (502 | 504, _) => format!("The proxy in front of the endpoint could not reach it ({status})."),
        (500..=599, _) => format!("The endpoint failed ({status})."),
        _ => format!("The endpoint did not accept the request ({status})."),
    };
    let fix = match status {
        300..=399 => "Put the final address in.",
        401 | 403 => {
            "Check what it expects: a custom header, an allowed address, or the signature. For that, check with the secret \
             your receiver knows."
        }
        404 | 405 => "Check the path of the address.",
        429 => "Check again in a while.",
        502 | 504 => "Check that it is up.",
        500..=599 => "Look into its logs.",
        _ => "Check that the receiver understands this format; its logs may say why not.",
    };
    (message, fix.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> AddressPolicy {
        AddressPolicy::default()
    }

    fn states(verdict: &Verdict) -> Vec<(Step, State)> {
        verdict.findings(true).into_iter().map(|finding| (finding.step, finding.state)).collect()
    }

    #[test]
    fn each_problem_of_an_address_has_its_step() {
        for (text, step) in [
            ("", Step::Syntax),
            ("hooks.example.com/in", Step::Syntax),
            ("https://a b/", Step::Syntax),
            ("https://", Step::Syntax),
            ("https://user:secret@hooks.example.com/", Step::Syntax),
            ("https://hooks.example.com/#top", Step::Syntax),
            ("http://hooks.example.com/", Step::Https),
            ("ftp://hooks.example.com/", Step::Https),
            ("https://10.0.0.1/", Step::Address),
            ("https://localhost/", Step::Address),
            ("https://hooks.example.com:22/", Step::Address),
        ] {
            let verdict = judge(text, &policy()).unwrap_err();
            assert!(matches!(verdict, Verdict::Refused { at, .. } if at == step), "{text:?}: {verdict:?}");
            for finding in verdict.findings(true) {
                let expected = match finding.step.cmp(&step) {
                    std::cmp::Ordering::Less => State::Ok,
                    std::cmp::Ordering::Equal => State::Failed,
                    std::cmp::Ordering::Greater => State::Skipped,
                };
                assert_eq!(finding.state, expected, "{text:?}: {finding:?}");
                assert!(finding.message.ends_with('.'), "{finding:?}");
                assert_eq!(finding.fix.is_some(), expected == State::Failed, "{finding:?}");
            }
        }
    }

    #[test]
    fn what_is_forbidden_is_told_in_the_same_words_whatever_it_is() {
        let url = judge("https://hooks.example.com/", &policy()).unwrap();
        let resolved = Verdict::Unreachable { url, at: Step::Address, outcome: Outcome::ForbiddenAddress };
        for text in ["https://127.0.0.1/", "https://[fd00::1]:8443/", "https://metadata.goog/", "https://intranet/"] {
            assert_eq!(judge(text, &policy()).unwrap_err().findings(false), resolved.findings(false), "{text}");
        }
    }

    #[test]
    fn a_name_that_leads_nowhere_has_no_address_to_judge() {
        let url = judge("https://hooks.example.com/", &policy()).unwrap();
        let verdict = Verdict::Unreachable { url, at: Step::Dns, outcome: Outcome::DnsNotFound };
        let states = states(&verdict);
        assert_eq!(states[2..4], [(Step::Address, State::Skipped), (Step::Dns, State::Failed)]);
    }

    #[test]
    fn a_ping_succeeds_with_2xx_alone() {
        let url = judge("https://hooks.example.com/", &policy()).unwrap();
        for status in [200, 204, 301, 307, 400, 401, 404, 405, 410, 429, 500, 502, 503] {
            let location = (status == 307).then(|| "https://elsewhere.example/".to_owned());
            let ping = Some(Outcome::Responded { status, location });
            let findings = Verdict::Reached { url: url.clone(), ping }.findings(true);
            let ping = findings.last().unwrap();
            assert_eq!(ping.state == State::Ok, status < 300, "{ping:?}");
            assert!(ping.fix.as_ref().is_none_or(|fix| fix.ends_with('.')), "{ping:?}");
        }
    }
}
