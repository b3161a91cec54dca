//! One change of a CPU pool or a pin, done.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use xen_config::{Size, list, pool::PoolStep};

use crate::sys::xl::Xl;

/// A balloon driver gives memory back page by page.
const BALLOON: Duration = Duration::from_secs(120);

/// Does `step`.
///
/// # Errors
/// What xl said.
pub(crate) fn apply(step: &PoolStep) -> Result<()> {
    let xl = Xl::at(Path::new("/"));
    match step {
        PoolStep::Remove { pool, cpus } => {
            xl.tell(&["xl", "cpupool-cpu-remove", pool, &cpus.to_string()])?;
        }
        PoolStep::Add { pool, cpus } => {
            xl.tell(&["xl", "cpupool-cpu-add", pool, &cpus.to_string()])?;
        }
        PoolStep::Create { pool, cpus } => {
            let each: Vec<String> = cpus.iter().map(|cpu| format!("\"{cpu}\"")).collect();
            let (name, cpus) = (format!("name=\"{pool}\""), format!("cpus=[{}]", each.join(",")));
            xl.tell(&["xl", "cpupool-create", &name, "sched=\"credit2\"", &cpus])?;
        }
        PoolStep::Migrate { domain, pool } => {
            xl.tell(&["xl", "cpupool-migrate", domain, pool])?;
        }
        PoolStep::Pin { domain, vcpu, cpus } => {
            let cpus = cpus.as_ref().map_or("all".to_owned(), ToString::to_string);
            xl.tell(&["xl", "vcpu-pin", domain, &vcpu.to_string(), &cpus])?;
        }
        PoolStep::Vcpus { count } => {
            xl.tell(&["xl", "vcpu-set", "0", &count.to_string()])?;
        }
        PoolStep::Memory { size } => shrink(&xl, *size)?,
    }
    Ok(())
}

/// Guests can only be made once the memory is really there.
fn shrink(xl: &Xl, size: Size) -> Result<()> {
    xl.tell(&["xl", "mem-set", "0", &format!("{}m", size.mib())])?;
    let begun = Instant::now();
    loop {
        let domains = list::parse(&xl.tell(&["xl", "list", "-v", "-c"])?, "", "")?;
        let service = domains.iter().find(|domain| domain.id == 0);
        let has = service.map_or(Size::ZERO, |domain| domain.memory);
        if has.mib() <= size.mib() + 8 {
            return Ok(());
        }
        if begun.elapsed() > BALLOON {
            bail!("the service domain still has {has}, {size} was asked of it");
        }
        thread::sleep(Duration::from_millis(250));
    }
}
