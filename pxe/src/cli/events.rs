//! `billet events`: what happened, and what happens.

use std::io::{BufRead, BufReader, Read};

use anyhow::Context;
use clap::Args;

use super::{ServerArgs, client::Client, text};
use crate::api::EventView;

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Only those of this node.
    #[arg(long)]
    node: Option<String>,
    /// Only those of this kind: `slice.ready`, or `slice` for all that begin so.
    #[arg(long)]
    kind: Option<String>,
    /// Only those after this event.
    #[arg(long, default_value_t = 0, value_name = "ID")]
    since: i64,
    /// Go on with what happens, until interrupted.
    #[arg(long, short)]
    follow: bool,
}

/// Reads server-sent events (WHATWG HTML, section 9.2) as events; the live progress between
/// them is passed over.
pub(super) struct Stream<R>(BufReader<R>);

impl<R: Read> Stream<R> {
    pub(super) fn new(reader: R) -> Self {
        Stream(BufReader::new(reader))
    }
}

impl<R: Read> Iterator for Stream<R> {
    type Item = anyhow::Result<EventView>;

    fn next(&mut self) -> Option<Self::Item> {
        let (mut kind, mut data) = (String::new(), String::new());
        let mut line = String::new();
        loop {
            line.clear();
            match self.0.read_line(&mut line) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => return Some(Err(error).context("reading the event stream")),
            }
            let field = line.trim_end_matches(['\r', '\n']);
            if let Some(value) = field.strip_prefix("event:") {
                value.trim_start().clone_into(&mut kind);
            } else if let Some(value) = field.strip_prefix("data:") {
                data.push_str(value.trim_start());
            } else if field.is_empty() && !data.is_empty() {
                if kind == "event" {
                    return Some(serde_json::from_str(&data).context("reading an event"));
                }
                data.clear();
            }
        }
    }
}

pub(super) fn run(args: &EventsArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.server)?;
    let node = args.node.as_ref().map(|node| format!("&node={node}")).unwrap_or_default();
    let kind = args.kind.as_ref().map(|kind| format!("&kind={kind}")).unwrap_or_default();
    let wanted = format!("since={}{node}{kind}", args.since);
    if args.follow {
        let stream = client.stream(&wanted)?;
        return Stream::new(stream).try_for_each(|event| show(args, &event?));
    }
    let events: Vec<EventView> = client.all(&format!("/v1/events?{wanted}"))?;
    if args.server.json {
        return text::json(&events);
    }
    events.iter().try_for_each(|event| show(args, event))
}

fn show(args: &EventsArgs, event: &EventView) -> anyhow::Result<()> {
    if args.server.json {
        return text::line(&serde_json::to_string(event)?);
    }
    text::line(&describe(event))
}

/// One line about an event.
pub(super) fn describe(event: &EventView) -> String {
    let node = event.node.as_deref().unwrap_or("-");
    format!("{:>6}  {:.0}  {:<12} {:<22} {}", event.id, event.at, node, event.kind, event.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_events_between_comments_and_unknown_kinds() {
        let wire = ": hello\n\nevent: other\ndata: {}\n\nid: 7\nevent: event\ndata: {\"id\":7,\
                    \"at\":\"2026-01-02T03:04:05Z\",\"kind\":\"node.enrolled\",\"text\":\"r1n1\"}\n\n";
        let events: Vec<_> = Stream::new(wire.as_bytes()).collect();
        assert_eq!(events.len(), 1);
        assert!(events[0].as_ref().unwrap().id == 7);
    }
}
