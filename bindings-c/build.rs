//! Gives the shared library its SONAME, so that programs linked against one ABI never load another.

use std::env;
use std::fs;
use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=src/version.rs");
    let root = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let source = fs::read_to_string(Path::new(&root).join("src/version.rs")).unwrap_or_default();
    let abi = source.lines().find_map(|line| {
        line.trim().strip_prefix("pub const GATEWAY_ABI_VERSION: u32 = ").and_then(|rest| rest.strip_suffix(';'))
    });
    match abi {
        Some(abi) if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os != "macos" && os != "windows") => {
            println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libgateway.so.{abi}");
        }
        Some(_) => {}
        None => println!("cargo:warning=GATEWAY_ABI_VERSION is not where build.rs looks for it"),
    }
}
