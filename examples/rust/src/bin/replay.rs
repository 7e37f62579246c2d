//! Replays a trace of GPU requests through a gateway, in virtual time. `replay --help` tells the rest.

use std::process::ExitCode;

fn main() -> ExitCode {
    libgateway_examples::replay::main()
}
