//! Tells server and console how far a deployment is, and never holds it up: a thread of its
//! own does the sending, beginnings and ends of steps in order, between them the latest state.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use protocol::{Progress, Step, path};

use crate::{console, server::Server};

const PERIOD: Duration = Duration::from_secs(1);
/// Every so many periods the console hears it too.
const CONSOLE_PERIODS: u32 = 10;
/// Messages that are kept while the server is away; a deployment has some twenty.
const KEPT: usize = 64;

/// The teller of one deployment.
#[derive(Debug)]
pub(crate) struct Teller {
    shared: Arc<Shared>,
    sender: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    deployment: String,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    current: Option<Current>,
    queue: VecDeque<Progress>,
    took: Vec<(Step, u64)>,
    closing: bool,
}

/// The step that is under way.
#[derive(Debug)]
struct Current {
    step: Step,
    done: u64,
    total: u64,
    note: Option<String>,
    began: Instant,
    /// When and where the rate was last taken.
    mark: (Instant, u64),
    rate: u64,
}

impl Current {
    fn message(&self, deployment: &str) -> Progress {
        Progress {
            deployment: deployment.to_owned(),
            step: self.step,
            done: self.done,
            total: self.total,
            rate: self.rate,
            uptime_ms: console::uptime_ms(),
            note: self.note.clone(),
        }
    }

    fn measure(&mut self) {
        let span = self.mark.0.elapsed().as_secs_f64();
        if span >= 0.5 {
            self.rate = (self.done.saturating_sub(self.mark.1) as f64 / span) as u64;
            self.mark = (Instant::now(), self.done);
        }
    }
}

impl Teller {
    /// Starts telling `server` about `deployment`, or only the console without a server.
    pub(crate) fn start(server: Option<(Server, String)>, deployment: &str) -> Self {
        let shared = Arc::new(Shared {
            deployment: deployment.to_owned(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let sender = thread::spawn({
            let shared = Arc::clone(&shared);
            move || send_all(&shared, server.as_ref())
        });
        Teller { shared, sender: Some(sender) }
    }

    /// A step begins (and the one before it has ended); `total` bytes are to be done.
    pub(crate) fn begin(&self, step: Step, total: u64, note: Option<String>) {
        self.end();
        match &note {
            Some(note) => console::say(format_args!("{step}: {note}")),
            None => console::say(format_args!("{step}")),
        }
        let mut state = self.shared.lock();
        let now = Instant::now();
        let current = Current { step, done: 0, total, note, began: now, mark: (now, 0), rate: 0 };
        state.queue.push_back(current.message(&self.shared.deployment));
        state.current = Some(current);
        drop(state);
        self.shared.changed.notify_one();
    }

    /// How far `step` is; it begins with the first word of it.
    pub(crate) fn reach(&self, step: Step, done: u64, total: u64) {
        if self.step() != Some(step) {
            self.begin(step, total, None);
        }
        if let Some(current) = &mut self.shared.lock().current {
            (current.done, current.total) = (done, total);
        }
    }

    /// The step that is under way.
    pub(crate) fn step(&self) -> Option<Step> {
        self.shared.lock().current.as_ref().map(|current| current.step)
    }

    /// What a person should know of the step that is under way.
    pub(crate) fn note(&self, note: String) {
        console::say(&note);
        if let Some(current) = &mut self.shared.lock().current {
            current.note = Some(note);
        }
    }

    /// The step that is under way has ended.
    pub(crate) fn end(&self) {
        let mut state = self.shared.lock();
        let Some(mut current) = state.current.take() else { return };
        let took = current.began.elapsed();
        current.rate = (current.done as f64 / took.as_secs_f64().max(0.001)) as u64;
        state.took.push((current.step, took.as_millis() as u64));
        state.queue.push_back(current.message(&self.shared.deployment));
        drop(state);
        self.shared.changed.notify_one();
        if current.done > 0 {
            let seconds = took.as_secs_f64();
            console::say(format_args!("{} {} in {seconds:.1} s", current.step, amounts(&current)));
        }
    }

    /// Milliseconds that each step took that has ended.
    pub(crate) fn took(&self) -> Vec<(Step, u64)> {
        self.shared.lock().took.clone()
    }

    /// Ends the step, sends what is still to be sent (once) and stops.
    pub(crate) fn close(mut self) -> Vec<(Step, u64)> {
        self.end();
        self.stop();
        self.took()
    }

    fn stop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.changed.notify_one();
        if let Some(sender) = self.sender.take() {
            let _ = sender.join();
        }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something to tell: what is queued, or what stands after a period.
    fn wait(&self) -> (VecDeque<Progress>, Option<Progress>, bool) {
        let state = self.lock();
        let idle = |state: &mut State| state.queue.is_empty() && !state.closing;
        let waited = self.changed.wait_timeout_while(state, PERIOD, idle);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let queue = mem::take(&mut state.queue);
        let latest = queue.is_empty().then_some(state.current.as_mut()).flatten();
        let latest = latest.map(|current| {
            current.measure();
            current.message(&self.deployment)
        });
        (queue, latest, state.closing)
    }
}

fn send_all(shared: &Shared, server: Option<&(Server, String)>) {
    let mut kept = VecDeque::new();
    let mut periods = 0;
    loop {
        let (queue, latest, closing) = shared.wait();
        kept.extend(queue);
        kept.drain(..kept.len().saturating_sub(KEPT));
        if let Some(latest) = &latest {
            periods += 1;
            if periods % CONSOLE_PERIODS == 0 {
                console::say(format_args!("{}", line(latest)));
            }
        }
        if let Some((server, bearer)) = server {
            send(server, bearer, &mut kept, latest.as_ref());
        }
        if closing {
            return;
        }
    }
}

/// Sends what was kept, in order, and then the latest; stops at the first that fails.
fn send(server: &Server, bearer: &str, kept: &mut VecDeque<Progress>, latest: Option<&Progress>) {
    let sent = |progress: &Progress| match server.post(path::PROGRESS, Some(bearer), progress) {
        Err(error) if error.may_pass() => false,
        Err(error) => {
            console::say(format_args!("{error}"));
            true
        }
        Ok(_) => true,
    };
    while let Some(first) = kept.front() {
        if !sent(first) {
            return;
        }
        kept.pop_front();
    }
    if let Some(latest) = latest {
        sent(latest);
    }
}

fn line(progress: &Progress) -> String {
    let mib = |bytes: u64| bytes >> 20;
    let (done, total, rate) = (mib(progress.done), mib(progress.total), mib(progress.rate));
    format!("{} {done} of {total} MiB, {rate} MiB/s", progress.step)
}

fn amounts(current: &Current) -> String {
    format!("{} MiB, {} MiB/s", current.done >> 20, current.rate >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_in_order_and_timed() {
        let teller = Teller::start(None, "d1");
        teller.begin(Step::Plan, 10, None);
        teller.reach(Step::Plan, 10, 10);
        teller.begin(Step::Write, 20, Some("a note".to_owned()));
        let took = teller.close();
        let steps: Vec<Step> = took.iter().map(|(step, _)| *step).collect();
        assert_eq!(steps, [Step::Plan, Step::Write]);
    }

    #[test]
    fn a_server_that_is_away_holds_nobody_up() {
        // Nothing listens on the discard port of this machine.
        let server = Server::at("http://127.0.0.1:9").unwrap();
        let teller = Teller::start(Some((server, "bearer".to_owned())), "d1");
        let began = Instant::now();
        for done in 0..100_000 {
            teller.reach(Step::Write, done, 100_000);
        }
        assert!(began.elapsed() < Duration::from_secs(1));
    }
}
