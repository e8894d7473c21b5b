//! Compiles the gRPC schema with protox, so that nobody has to install `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=schema");
    let descriptors = protox::compile(
        [
            "schema/ca.proto",
            "schema/dispatcher.proto",
            "schema/managers.proto",
        ],
        ["schema"],
    )?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
