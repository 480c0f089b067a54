//! Source trees: what people have, what is hard to copy, and seeded changes to either.

mod image;
mod mutate;
mod nasty;
mod plain;

pub use image::{random_image, rewrite_sectors};
pub use mutate::mutate;
pub use nasty::nasty;
pub use plain::{random_bytes, small_files, system_copy, total_bytes, words};
