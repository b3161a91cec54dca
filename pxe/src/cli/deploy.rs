//! `billet node deploy` and `watch`: deployments with live progress, and their time line.

use std::{
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use protocol::Restart;

use super::{
    ServerArgs,
    bar::{Bar, Bars},
    client::{Client, Refused},
    node::{DiskArgs, Named},
    text,
};
use crate::api::{DeployRequest, DeploymentView, NodeView};

#[derive(Debug, Args)]
pub(super) struct DeployArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The nodes' names or identifiers.
    #[arg(required = true)]
    nodes: Vec<String>,
    /// The image's name or digest.
    #[arg(long)]
    image: String,
    /// Stay and show progress until all have ended; exit status 1 when one failed.
    #[arg(long)]
    wait: bool,
    /// Start the image by kexec instead of through the firmware, this time.
    #[arg(long)]
    kexec: bool,
    /// Leave the last partition as large as it is in the image.
    #[arg(long)]
    no_grow: bool,
    /// Accept an image without a signature.
    #[arg(long)]
    unsigned: bool,
    #[command(flatten)]
    disk: DiskArgs,
}

/// How often an open deployment is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a provisioner may be away (a restart, a cable) while somebody watches.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn run(args: &DeployArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.server)?;
    let request = DeployRequest {
        image: args.image.clone(),
        disk: args.disk.hints(),
        restart: args.kexec.then_some(Restart::Kexec),
        grow: args.no_grow.then_some(false),
        unsigned: args.unsigned,
    };
    let ask = |node: &String| client.post(&format!("/v1/nodes/{node}/deployments"), &request);
    let begun: Vec<DeploymentView> = args.nodes.iter().map(ask).collect::<Result<_, _>>()?;
    if args.wait {
        return follow(&client, begun, args.server.json);
    }
    if args.server.json {
        text::json(&begun)?;
        return Ok(ExitCode::SUCCESS);
    }
    for deployment in &begun {
        text::line(&format!(
            "{} {}: {}",
            deployment.node,
            text::short(&deployment.id),
            status(deployment)
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn watch(args: &Named) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.server)?;
    let node: NodeView = client.get(&format!("/v1/nodes/{}", args.node))?;
    let Some(id) = node.deployment else {
        let refusal = format!(
            "{} is {} and has no deployment; `billet node deploy {} --image NAME` starts one",
            node.name, node.state, node.name
        );
        return Err(Refused(refusal).into());
    };
    let deployment = client.get(&format!("/v1/deployments/{id}"))?;
    let code = follow(&client, vec![deployment], args.server.json)?;
    if !args.server.json {
        let ended: DeploymentView = client.get(&format!("/v1/deployments/{id}"))?;
        time_line(&ended).iter().try_for_each(|line| text::line(line))?;
    }
    Ok(code)
}

/// Shows deployments until all have ended.
fn follow(client: &Client, begun: Vec<DeploymentView>, json: bool) -> anyhow::Result<ExitCode> {
    let bars = Bars::new();
    let mut open: Vec<(Bar, DeploymentView)> =
        begun.into_iter().map(|deployment| (bars.add(&deployment.node), deployment)).collect();
    let mut heard = Instant::now();
    while open.iter().any(|(_, deployment)| deployment.state == "open") {
        thread::sleep(LOOK_EVERY);
        for (bar, deployment) in open.iter_mut().filter(|(_, seen)| seen.state == "open") {
            match client.get(&format!("/v1/deployments/{}", deployment.id)) {
                Ok(now) => {
                    *deployment = now;
                    heard = Instant::now();
                    show(bar, deployment);
                }
                Err(refused) if refused.is::<Refused>() => return Err(refused),
                Err(away) if heard.elapsed() > PATIENCE => return Err(away),
                Err(_) => {
                    let left = PATIENCE.saturating_sub(heard.elapsed()).as_secs();
                    bar.note(
                        "",
                        &format!("the provisioner does not answer; asking for {left}s more"),
                    );
                }
            }
        }
    }
    let ended: Vec<DeploymentView> = open.into_iter().map(|(_, deployment)| deployment).collect();
    if json {
        text::json(&ended)?;
    }
    let done = ended.iter().all(|deployment| deployment.state == "done");
    Ok(if done { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn show(bar: &mut Bar, deployment: &DeploymentView) {
    if deployment.state != "open" {
        return bar.end(&status(deployment));
    }
    match &deployment.progress {
        Some(progress) if progress.step == deployment.step && progress.total > 0 => {
            bar.bytes(progress.step.name(), progress.done, progress.total, progress.rate);
        }
        _ => bar.note(deployment.step.name(), &waiting(deployment)),
    }
}

fn waiting(deployment: &DeploymentView) -> String {
    deployment.wait.as_ref().map(text::wait).unwrap_or_default()
}

/// One line on where a deployment stands.
fn status(deployment: &DeploymentView) -> String {
    let took = deployment.ended.map(|ended| text::span(ended.duration_since(deployment.created)));
    match (deployment.state.as_str(), took) {
        ("open", _) => format!("{} {}", deployment.step, waiting(deployment)).trim_end().to_owned(),
        (state, Some(took)) => {
            let reason = deployment.reason.as_ref().map(|reason| format!(": {reason}"));
            let step = if state == "done" {
                String::new()
            } else {
                format!(" in step {}", deployment.step)
            };
            format!("{state}{step} after {took}{}", reason.unwrap_or_default())
        }
        (state, None) => state.to_owned(),
    }
}

/// When each step began and how long it took.
fn time_line(deployment: &DeploymentView) -> Vec<String> {
    let since = |moment: jiff::Timestamp| moment.duration_since(deployment.created).as_secs_f64();
    let step = |view: &crate::api::StepView| {
        let took = view.ended.map(|ended| ended.duration_since(view.begun).as_secs_f64());
        let took = took.map_or_else(|| "       ".to_owned(), |took| format!("{took:6.1}s"));
        let bytes = if view.total > 0 { text::bytes(view.total) } else { String::new() };
        format!("{:7.1}s {took}  {:<10} {bytes}", since(view.begun), view.step.name())
    };
    let mut lines: Vec<String> = deployment.steps.iter().map(step).collect();
    if let Some(ended) = deployment.ended {
        lines.push(format!("{:7.1}s          {}", since(ended), deployment.state));
    }
    lines
}
