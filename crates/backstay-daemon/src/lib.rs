//! The daemon of a site: wiring only.

pub mod api_types;
pub mod audit;
pub mod config;
