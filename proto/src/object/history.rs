//! The specs that a service has had, so that it can go back to any of them.

use crate::spec::ServiceSpec;
use crate::{Timestamp, Version};

/// The specs of a service by number. A number names one spec for ever: who goes back to a spec finds it under the number
/// that it had.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SpecHistory {
    /// The present spec's number, from 1; 0 in services that have not been changed since before there were numbers.
    #[serde(default)]
    pub number: u64,
    /// The highest number given so far.
    #[serde(default)]
    pub last: u64,
    /// Since when the present spec is the service's.
    #[serde(default)]
    pub since: Timestamp,
    /// Specs before it, in the order in which they were replaced.
    #[serde(default)]
    pub kept: Vec<KeptSpec>,
}

/// A spec that a service has had.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct KeptSpec {
    /// Its number.
    #[serde(default)]
    pub number: u64,
    /// Since when it was the service's.
    #[serde(default)]
    pub since: Timestamp,
    /// What tasks made from it carry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec_version: Option<Version>,
    /// The spec.
    #[serde(default)]
    pub spec: Box<ServiceSpec>,
}
