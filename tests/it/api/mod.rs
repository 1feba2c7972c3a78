//! Every door of the API: what is right, what is wrong, who may, and what others learn.

mod account;
mod documents;
mod doors;
mod ingestion;
mod limits;
mod matrix;
pub mod people;
