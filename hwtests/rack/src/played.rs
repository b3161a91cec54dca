//! Stories that are played inside a machine of [`kernel`](crate::kernel): each prints how it ended,
//! and is looked up outside by its name.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{hardware::Hardware, kernel::Kernel};

/// A story's name, and what it does.
pub type Story = (&'static str, fn() -> Result<()>);

/// How the stories of one machine ended.
#[derive(Debug)]
pub struct Played(Vec<(String, String)>);

/// Inside: tells how a story ended.
pub fn tell(name: &str, ended: &Result<()>) {
    let said = match ended {
        Ok(()) => "ok".to_owned(),
        Err(error) => format!("{error:#}").replace('\n', " | "),
    };
    println!("\nstory {name}: {said}");
}

impl Played {
    /// Runs a machine that plays `what`; prints the lines that begin with `note`.
    ///
    /// # Errors
    /// When the machine does not end in its time, or played nothing.
    pub fn on(
        machine: &Kernel<'_>,
        hardware: &Hardware,
        folder: &Path,
        what: &str,
        patience: Duration,
    ) -> Result<Self> {
        let (mut played, mut lines) = (Vec::new(), Vec::new());
        machine.run_on(hardware, folder, what, patience, |line| {
            lines.push(line.to_owned());
            if let Some((name, said)) =
                line.split_once("story ").and_then(|(_, rest)| rest.split_once(": "))
            {
                played.push((name.to_owned(), said.replace(" | ", "\n")));
            }
        })?;
        for note in lines.iter().filter(|line| line.starts_with("note ")) {
            println!("{note}");
        }
        let end = &lines[lines.len().saturating_sub(20)..];
        ensure!(!played.is_empty(), "the machine played nothing; it said:\n{}", end.join("\n"));
        Ok(Played(played))
    }

    /// How the story of that name ended.
    ///
    /// # Errors
    /// What it said when it failed, or that it was not played.
    pub fn outcome(&self, name: &str) -> Result<()> {
        let told = self.0.iter().find(|(story, _)| story == name);
        let (_, said) = told.context("the machine ended before it played this")?;
        ensure!(said == "ok", "{said}");
        Ok(())
    }
}
