//! The daemon of a site: it wires decisions (`backstay-engine`) to drivers (store, volumes, network, manifest
//! folder), keeps the schedule, and serves the admin API.

pub mod api_types;
pub mod audit;
pub mod config;

mod api;
mod apply;
mod ask;
mod automatic;
mod clock;
mod clusters;
mod controllers;
mod cycle;
mod demote;
mod drill;
mod error;
mod files;
mod handover;
mod incoming;
mod init;
mod meter;
mod metrics;
mod neighbours;
mod own_folders;
mod pair_ops;
mod places;
mod plan_ops;
mod plans;
mod private;
mod probe;
mod promote;
mod proposed;
mod receive;
mod reserve;
mod runtime;
mod schedule;
mod serve;
mod signs;
mod site;
mod spot;
mod standstill;
mod status;
mod take_out;
mod tell;
mod upkeep;
mod witness;

pub use automatic::AutomaticError;
pub use error::DaemonError;
pub use init::{InitReport, InitResult, init, init_if_missing};
pub use serve::{ServeOptions, serve};
pub use tell::TellError;
pub use upkeep::{rebuild_catalog, verify_offline};
pub use witness::{WitnessError, WitnessOptions, serve_witness};
