//! What happened when, from the server's events, counted from power-on.

use anyhow::{Context, Result};
use jiff::Timestamp;
use rack::api::Event;

/// One line an event since `start`, in order.
pub(crate) fn render(events: &[Event], start: Timestamp) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for event in events {
        let at: Timestamp = event.at.parse().context("reading an event's moment")?;
        let after = at.duration_since(start).as_secs_f64();
        if after < 0.0 {
            continue;
        }
        let node = event.node.as_deref().unwrap_or("");
        lines.push(format!("  {after:7.1}s  {node:<6} {:<20} {}", event.kind, event.text));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_from_power_on() {
        let event = Event {
            id: 1,
            at: "2026-11-20T10:00:01.500Z".to_owned(),
            node: Some("bios".to_owned()),
            deployment: None,
            kind: "node.enrolled".to_owned(),
            text: "bios is ready".to_owned(),
        };
        let lines = render(&[event], "2026-11-20T10:00:00Z".parse().unwrap()).unwrap();
        assert_eq!(lines, ["      1.5s  bios   node.enrolled        bios is ready"]);
    }
}
