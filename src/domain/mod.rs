//! Pure types and decisions: what a goal matches, when a trigger fires, what an outcome does to a delivery.
//!
//! This room knows nothing of ours and nothing of the outside: no async, no I/O, no clock, no randomness. Time and
//! chance are arguments. Start with [`decide`] (noticing) and [`settle`] (sending).

pub mod access;
pub mod address;
pub mod backtest;
pub mod baseline;
pub mod breaker;
pub mod condition;
pub mod decide;
pub mod endpoint_url;
pub mod event;
pub mod filter;
pub mod format;
pub mod goal;
pub mod goal_index;
pub mod habit;
pub mod headers;
pub mod hit;
pub mod ids;
pub mod inbox;
pub mod invalid;
pub mod key;
pub mod life;
pub mod live;
pub mod mirror;
pub mod node;
pub mod outcome;
pub mod pace;
pub mod person;
pub mod phases;
pub mod resend;
pub mod retry;
pub mod settle;
pub mod signature;
pub mod tally;
pub mod time;
pub mod trigger;
pub mod url_check;
pub mod vault;
pub mod webhook;
