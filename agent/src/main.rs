//! `billet-agent`: what runs on a node.
//!
//! As PID 1 of the RAM system it is [`init`], which starts the imager; the kernel calls it
//! again when it wants a module; by hand it is a small command line.

mod alias;
mod bmc;
mod choice;
mod cli;
mod connection;
mod console;
mod deployment;
mod devices;
mod dhcp;
mod disks;
mod fault;
mod host;
mod identity;
mod image;
mod imager;
mod init;
mod inventory;
mod ipmi;
mod kexec;
mod listings;
mod local;
mod memory;
mod modules;
mod network;
mod packs;
mod patience;
mod progress;
mod ranges;
mod restart;
mod seed;
mod server;
mod sys;
mod sysfs;
mod trace;
mod uevent;

use std::process::ExitCode;

fn main() -> ExitCode {
    memory::give_back();
    if std::process::id() == 1 {
        init::run();
    }
    trace::to_console();
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        // How the kernel asks for a module: `<kernel.modprobe> -q -- <name>`.
        ["-q", "--", name] => load_module(name),
        ["imager"] => ExitCode::from(imager::run().code()),
        _ => cli::run(),
    }
}

fn load_module(name: &str) -> ExitCode {
    let loaded = modules::Modules::open().and_then(|mut modules| modules.load(name));
    // The kernel asks for much that it can do without, so a refusal is not worth a line.
    if loaded.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
