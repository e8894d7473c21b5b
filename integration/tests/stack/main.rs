//! Black-box tests of one node and of several: the real binaries, as root, on the real kernel.

mod attachable;
mod bad_input;
mod containers;
mod convergence;
mod docker_cli;
mod example;
mod fencing;
mod images;
mod images_travel;
mod ipv6;
mod managers;
mod mesh;
mod overlay;
mod partitions;
mod peer_port;
mod placement;
mod reach;
mod recovery;
mod services;
mod stack_versions;
mod stacks;
mod two_agents;
mod two_nodes;
mod upkeep;
mod vault;
mod volumes_move;
