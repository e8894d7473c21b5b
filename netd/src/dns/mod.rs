//! DNS for containers: names of services, tasks and containers are answered here, everything else is asked upstream.
//!
//! One UDP and one TCP socket on each network's gateway address inside the fabric, and one pair on 127.0.0.11 inside each
//! sandbox. The socket says which network or sandbox asks; hickory-proto reads and writes the packets.

mod answer;
mod directory;
mod resolve;
mod server;
mod tcp;
mod upstream;
mod wire;
mod zone;

pub(crate) use directory::{Directory, Scope};
pub(crate) use server::{DnsServer, DnsSockets, DnsTasks};
pub(crate) use upstream::Upstreams;
pub(crate) use zone::{Names, Source, Zone};
