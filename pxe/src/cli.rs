//! What was typed becomes what it means, here and nowhere else.

mod bar;
mod build;
mod client;
mod collect;
mod config;
mod deploy;
mod diff;
mod events;
mod export;
mod image;
mod key;
mod mirror;
mod node;
mod text;

use std::{io, path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory, Parser, Subcommand};
pub use client::Refused;

use crate::{config::Config, serve};

/// Turns bare machines into what people need for a while.
#[derive(Debug, Parser)]
#[command(name = "billet", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer DHCP, TFTP and HTTP, keep the nodes' states, serve the API.
    Serve(ConfigArgs),
    /// Make, list and check images, in the store of this host.
    #[command(subcommand)]
    Image(image::Verb),
    /// Enroll, deploy and watch nodes.
    #[command(subcommand)]
    Node(node::Verb),
    /// What happened, oldest first.
    Events(events::EventsArgs),
    /// Print the API's description (OpenAPI 3.1).
    Openapi,
    /// Print completions for a shell: `billet completions bash`.
    Completions {
        /// Which one.
        shell: clap_complete::Shell,
    },
}

/// Where the configuration is.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// The TOML file; without it every key has its default.
    #[arg(long, env = "BILLET_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Which provisioner to talk to, and as whom.
#[derive(Debug, Clone, Args)]
struct ServerArgs {
    /// Base URL of the provisioner.
    #[arg(
        long,
        env = "BILLET_SERVER",
        default_value = "http://127.0.0.1:8080",
        value_name = "URL"
    )]
    server: String,
    /// Bearer token; without it the token file of the data folder is read.
    #[arg(long, env = "BILLET_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// File that holds the bearer token.
    #[arg(long, env = "BILLET_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

/// Runs what was typed.
pub fn run() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Serve(args) => serve::run(Config::load(args.config.as_deref())?)?,
        Command::Image(verb) => image::run(verb)?,
        Command::Node(verb) => return node::run(verb),
        Command::Events(args) => events::run(&args)?,
        Command::Openapi => text::line(&crate::http::openapi_json()?)?,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "billet", &mut io::stdout());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Says why it did not work; the only place that does.
pub fn complain(error: &anyhow::Error) {
    // Where even this cannot be written, the exit status still tells.
    let _ = text::error_line(&format!("billet: {error:#}"));
}
