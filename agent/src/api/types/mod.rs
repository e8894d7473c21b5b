//! JSON types of the Docker Engine API, hand-written so that every key Docker emits is emitted.
//!
//! Requests are decoded with [`lenient::from_slice`]: keys in any case, `null` as the zero value, string-or-list where Docker
//! takes both.

pub mod config;
pub mod container;
pub mod event;
pub mod exec;
pub mod host_config;
pub mod inspect;
pub mod lenient;
pub mod network_settings;
