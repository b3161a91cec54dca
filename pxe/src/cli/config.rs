//! `billet node config` and `billet node guests`: what a node should be, and what runs on it.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use jiff::SignedDuration;

use super::{
    ServerArgs,
    bar::Bars,
    client::{Client, Refused},
    node::Named,
    text,
};
use crate::api::{
    ConfigStatus, ConfigView, EventView, GuestView, GuestsView, NodeView, PlanView, SliceView,
    SlicesView,
};

/// Begins the lines that `show` puts before the text, and that `set` understands.
const MARK: &str = "# billet: ";
/// How often a node that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// The node's name or identifier.
    node: String,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say what the node should be: all of it, in TOML (or JSON: a file named *.json).
    Set(Set),
    /// Print what the node should be, in a form that `set` takes again, and how far it is.
    Show(ServerArgs),
    /// Print the steps from what the node was last to what it should be.
    Plan(ServerArgs),
    /// Want nothing of the node any more; what stands is left as it is.
    Unset(ServerArgs),
}

#[derive(Debug, Args)]
struct Set {
    #[command(flatten)]
    server: ServerArgs,
    /// The file; `-` is standard input.
    file: PathBuf,
    /// Change nothing; print the steps there would be.
    #[arg(long)]
    dry_run: bool,
    /// Stay until the node's agent has applied it; exit status 1 when it cannot.
    #[arg(long)]
    wait: bool,
    /// Only over this generation; a file that `show` wrote has its own in it.
    #[arg(long, value_name = "GENERATION")]
    over: Option<u64>,
}

pub(super) fn run(args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    let path = format!("/v1/nodes/{}/config", args.node);
    match &args.verb {
        Verb::Set(set) => return self::set(&args.node, &path, set),
        Verb::Show(server) => show(&Client::new(server)?.get(&path)?, server.json)?,
        Verb::Plan(server) => {
            let client = Client::new(server)?;
            let config: ConfigView = client.get(&path)?;
            plan(&client.put(&dry(&path), kind(&config.format), None, config.text)?, server.json)?;
        }
        Verb::Unset(server) => Client::new(server)?.delete(&path)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn set(node: &str, path: &str, args: &Set) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.server)?;
    let (shown, text) = unmark(read(&args.file)?);
    let json = args.file.extension().is_some_and(|extension| extension == "json");
    let (kind, over) = (kind(if json { "json" } else { "toml" }), args.over.or(shown));
    if args.dry_run {
        plan(&client.put(&dry(path), kind, over, text)?, args.server.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let config: ConfigView = client.put(path, kind, over, text)?;
    for warning in &config.warnings {
        text::error_line(&format!("billet: {node} cannot be so as it is now: {warning}"))?;
    }
    if args.wait {
        return follow(&client, &config, args.server.json);
    }
    match args.server.json {
        true => text::json(&config)?,
        false => text::line(&format!(
            "{} should be as generation {} says: {}",
            config.node,
            config.generation,
            standing(&config.status)
        ))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn read(file: &Path) -> anyhow::Result<String> {
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("reading standard input")?;
        return Ok(text);
    }
    fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))
}

/// The generation that a text was shown as, and the text itself.
fn unmark(text: String) -> (Option<u64>, String) {
    let (mut generation, mut rest) = (None, text.as_str());
    while let Some(line) = rest.strip_prefix(MARK) {
        let end = line.find('\n').map_or(line.len(), |end| end + 1);
        let number = line.strip_prefix("generation ").and_then(|line| line.split(' ').next());
        generation = generation.or_else(|| number?.parse().ok());
        rest = &line[end..];
    }
    (generation, rest.to_owned())
}

fn kind(format: &str) -> &'static str {
    if format == "json" { "application/json" } else { "application/toml" }
}

fn dry(path: &str) -> String {
    format!("{path}?dry_run=true")
}

fn show(config: &ConfigView, json: bool) -> anyhow::Result<()> {
    if json {
        return text::json(config);
    }
    let mut head = vec![format!(
        "{MARK}generation {} of {}, set by {} at {:.0}",
        config.generation, config.node, config.by, config.since
    )];
    head.push(format!("{MARK}{}", standing(&config.status)));
    head.extend(config.left.iter().map(|step| format!("{MARK}left: {step}")));
    head.extend(config.notes.iter().map(|note| format!("{MARK}note: {note}")));
    // JSON has no comments: there the text stays alone.
    for line in head {
        match config.format.as_str() {
            "json" => text::error_line(&line)?,
            _ => text::line(&line)?,
        }
    }
    text::line(config.text.trim_end())
}

fn plan(plan: &PlanView, json: bool) -> anyhow::Result<()> {
    if json {
        return text::json(plan);
    }
    for (number, step) in plan.steps.iter().enumerate() {
        text::line(&format!("{:>3}. {step}", number + 1))?;
    }
    if plan.steps.is_empty() {
        text::line(&format!("no step is needed: {} is as desired", plan.node))?;
    }
    for reason in &plan.reboot {
        text::line(&format!("must be booted again: {reason}"))?;
    }
    for note in &plan.notes {
        text::line(&format!("note: {note}"))?;
    }
    let age = text::span(SignedDuration::from_secs(i64::try_from(plan.age).unwrap_or(i64::MAX)));
    text::line(&format!("(from what its agent saw {age} ago)"))
}

/// One line on how far a node is.
pub(super) fn standing(status: &ConfigStatus) -> String {
    let mut line = match status.state.as_str() {
        "unset" => "nothing is wanted any more".to_owned(),
        "unheard" => "no agent has said a word yet".to_owned(),
        state => state.to_owned(),
    };
    if let Some(text) = &status.text {
        line.push_str(&format!(": {text}"));
    }
    if status.reboot_needed {
        line.push_str(&format!("; must be booted again: {}", status.reboot.join("; ")));
    }
    if let Some(heard) = status.heard {
        line.push_str(&format!(" (last heard {})", text::ago(heard)));
    }
    line
}

/// Shows how far a node is until its agent has applied a desired state or cannot.
fn follow(client: &Client, config: &ConfigView, json: bool) -> anyhow::Result<ExitCode> {
    let bars = Bars::new();
    let mut bar = bars.add(&config.node);
    loop {
        let node: NodeView = client.get(&format!("/v1/nodes/{}", config.node))?;
        let Some(status) = node.config.filter(|it| it.generation == config.generation) else {
            let text = format!("somebody else said meanwhile what {} should be", config.node);
            return Err(Refused(text).into());
        };
        let over = matches!(status.state.as_str(), "refused" | "failed");
        if status.state == "applied" || over || node.wait.is_none() {
            bar.end(&standing(&status));
            if json {
                text::json(&status)?;
            }
            let done = status.state == "applied";
            return Ok(if done { ExitCode::SUCCESS } else { ExitCode::from(1) });
        }
        bar.note(&status.state, &standing(&status));
        thread::sleep(LOOK_EVERY);
    }
}

pub(super) fn guests(args: &Named) -> anyhow::Result<()> {
    let client = Client::new(&args.server)?;
    let guests: GuestsView = client.get(&format!("/v1/nodes/{}/guests", args.node))?;
    if args.server.json {
        return text::json(&guests);
    }
    let none = format!(
        "no guests on {0}: `[[guest]]` in its desired state makes one (billet node config {0} set)",
        guests.node
    );
    let rows = guests.items.iter().map(row).collect();
    let heading =
        ["name", "state", "domain", "vcpus", "memory", "cpu", "received", "sent", "since", "why"];
    text::table(&heading, rows, &none)
}

fn row(guest: &GuestView) -> Vec<String> {
    let dash = || "-".to_owned();
    let foreign = (!guest.desired).then(|| "not of the desired state".to_owned());
    let cpu = i64::try_from(guest.cpu_ms).unwrap_or(i64::MAX);
    vec![
        guest.name.clone(),
        guest.state.clone(),
        guest.domain.map_or_else(dash, |number| number.to_string()),
        guest.vcpus.to_string(),
        text::bytes(guest.memory),
        text::span(SignedDuration::from_millis(cpu)),
        text::bytes(guest.received),
        text::bytes(guest.sent),
        guest.since.map_or_else(dash, text::ago),
        guest.reason.clone().or(foreign).unwrap_or_default(),
    ]
}

#[derive(Debug, Args)]
pub(super) struct SlicesArgs {
    #[command(flatten)]
    of: Named,
    /// What became of its slices: who had which VF when, with which identity.
    #[arg(long)]
    history: bool,
}

pub(super) fn slices(args: &SlicesArgs) -> anyhow::Result<()> {
    let SlicesArgs { of: args, history } = args;
    let client = Client::new(&args.server)?;
    if *history {
        return slice_history(&client, args);
    }
    let slices: SlicesView = client.get(&format!("/v1/nodes/{}/slices", args.node))?;
    if args.server.json {
        return text::json(&slices);
    }
    let none = format!(
        "no slices on {0}: `[[fabric]]` and `slice` of a guest in its desired state make one \
         (billet node config {0} set)",
        slices.node
    );
    let rows = slices.items.iter().map(slice_row).collect();
    text::table(&["slice", "fabric", "state", "identity", "pkeys", "vf", "address"], rows, &none)
}

fn slice_history(client: &Client, args: &Named) -> anyhow::Result<()> {
    let events: Vec<EventView> =
        client.all(&format!("/v1/events?kind=slice&node={}", args.node))?;
    if args.server.json {
        return text::json(&events);
    }
    let row = |event: &EventView| vec![format!("{:.0}", event.at), event.text.clone()];
    let none = format!("{} has had no slices, as far as events are kept", args.node);
    text::table(&["when", "what"], events.iter().map(row).collect(), &none)
}

fn slice_row(slice: &SliceView) -> Vec<String> {
    let dash = || "-".to_owned();
    let vf = slice.pf.as_ref().zip(slice.vf).map(|(pf, vf)| format!("{vf} of {pf}"));
    vec![
        slice.slice.clone(),
        slice.fabric.clone().unwrap_or_else(dash),
        slice.state.clone(),
        slice.guid.clone().or_else(|| slice.mac.clone()).unwrap_or_else(dash),
        if slice.pkeys.is_empty() { dash() } else { slice.pkeys.join(" ") },
        vf.unwrap_or_else(dash),
        slice.address.clone().unwrap_or_else(dash),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shown_can_be_set_again() {
        let shown =
            format!("{MARK}generation 7 of one, set by me\n{MARK}applied\n[service]\n# a\n");
        assert_eq!(unmark(shown), (Some(7), "[service]\n# a\n".to_owned()));
        let plain = "# generation 7\n[service]\n".to_owned();
        assert_eq!(unmark(plain.clone()), (None, plain));
        assert_eq!(unmark(format!("{MARK}x")), (None, String::new()));
    }
}
