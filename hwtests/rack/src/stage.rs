//! Where an end-to-end test plays: one rack, one server and one small store, shared by the
//! tests of one program, which are short stories on machines of their own.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};

use crate::{
    Api, Artefacts, DiskSpec, Node, NodeSpec, Part, Rack, Server, Size, Tiny,
    api::{Deployment, Event},
    server::Options,
    tiny,
};

/// How long a blank machine may take until its agent says hello, and about anything else that
/// an emulated machine on busy cores does.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// A rack with a server.
pub struct Stage {
    // Dropped in this order: machines, then the server, then the files of both.
    rack: Mutex<Rack>,
    server: Mutex<Server>,
    artefacts: Artefacts,
    store: PathBuf,
    folder: tempfile::TempDir,
}

/// One test: a name and a story.
pub struct Story {
    /// Its name in the list.
    pub name: &'static str,
    /// It ends with an error or well.
    pub play: fn(&Stage) -> Result<()>,
}

/// What the tests of one program need.
pub struct Program {
    /// What the cached store must have.
    pub parts: &'static [Part],
    /// Whether the server serves the cached store itself, or a small one of its own, for tiny disks: nothing
    /// in those answers when it has started, so nobody waits for that.
    pub cached_store: bool,
    /// Changes the server's options.
    pub options: fn(Options) -> Options,
    /// How many stories are played at once.
    pub at_once: usize,
}

impl Program {
    /// Stories of tiny disks, one after the other.
    pub const TINY: Program = Program {
        parts: &[Part::Ram],
        cached_store: false,
        options: |options| options,
        at_once: 1,
    };
}

/// The `main` of a test program: prepares the artefacts, enters the namespaces, plays.
pub fn run(program: &'static Program, stories: Vec<Story>) -> ExitCode {
    static STAGE: OnceLock<Result<Stage, String>> = OnceLock::new();
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(arguments.test_threads.unwrap_or(program.at_once));
    // Nothing is built for a list, and a failure to build is every story's failure.
    let prepared = if arguments.list { Ok(None) } else { prepare(program).map(Some) };
    let prepared = Mutex::new(Some(prepared));
    let prepared = Arc::new(prepared);
    let trials = stories.into_iter().map(|story| {
        let prepared = prepared.clone();
        Trial::test(story.name, move || {
            let stage = STAGE.get_or_init(|| {
                let taken = prepared.lock().unwrap_or_else(PoisonError::into_inner).take();
                let artefacts = taken.and_then(|prepared| prepared.transpose());
                let artefacts = artefacts.unwrap_or_else(|| Err(anyhow::anyhow!("no artefacts")));
                artefacts
                    .and_then(|artefacts| Stage::set(artefacts, program))
                    .map_err(|error| format!("setting the stage: {error:#}"))
            });
            let stage = stage.as_ref().map_err(Failed::from)?;
            (story.play)(stage).map_err(|error| Failed::from(stage.explain(&error)))
        })
    });
    let code = libtest_mimic::run(&arguments, trials.collect()).exit_code();
    if let Some(Ok(stage)) = STAGE.get() {
        stage.strike();
    }
    code
}

fn prepare(program: &Program) -> Result<Artefacts> {
    let artefacts = Artefacts::prepare(program.parts, |what| println!("{what}"))?;
    crate::enter()?;
    Ok(artefacts)
}

impl Stage {
    fn set(artefacts: Artefacts, program: &Program) -> Result<Self> {
        let folder = tempfile::tempdir().context("making a folder")?;
        let rack = Rack::new(&folder.path().join("rack"))?;
        let store = if program.cached_store {
            artefacts.store.clone()
        } else {
            artefacts.small_store(folder.path())?
        };
        let mut options = Options::new(&store);
        options.check_start = program.cached_store;
        let options = (program.options)(options);
        let folder_of_server = folder.path().join("server");
        let mut server = Server::start(&artefacts.programs, &folder_of_server, &options)?;
        server.keep_connections();
        let (rack, server) = (Mutex::new(rack), Mutex::new(server));
        Ok(Stage { rack, server, artefacts, store, folder })
    }

    /// Ends what a static would leave running.
    fn strike(&self) {
        for node in self.rack().nodes() {
            node.cut();
        }
        self.server().key().end_connections();
        self.server().stop();
        let _ = std::fs::remove_dir_all(self.folder.path());
    }

    /// The rack.
    pub fn rack(&self) -> MutexGuard<'_, Rack> {
        self.rack.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server. Whoever kills it holds this until it is back, so that no other story is
    /// told no.
    pub fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server's API.
    pub fn api(&self) -> Api {
        self.server().api().clone()
    }

    /// The programs and the cached store.
    pub fn artefacts(&self) -> &Artefacts {
        &self.artefacts
    }

    /// The store that the server serves.
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// A folder for files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Makes a tiny disk and imports it under its name.
    pub fn tiny(&self, name: &str, data: Size) -> Result<Tiny> {
        let tiny = Tiny::make(self.folder(), name, data)?;
        self.artefacts.import(&self.store, name, Some(tiny::SEED), &tiny.path)?;
        Ok(tiny)
    }

    /// A machine with these disks, enrolled, switched off.
    pub fn enrolled(&self, spec: NodeSpec) -> Result<Arc<Node>> {
        let node = self.rack().add(spec)?;
        self.server().enroll(&node)?;
        Ok(node)
    }

    /// A machine of one virtio disk with room for `tiny`, enrolled, switched off.
    pub fn enrolled_for(&self, name: &str, tiny: &Tiny, slow: Option<Size>) -> Result<Arc<Node>> {
        let mut disk = DiskSpec::new(Size(tiny.size + (16 << 20)), crate::Bus::Virtio);
        disk.rate = slow;
        self.enrolled(NodeSpec::new(name, crate::Firmware::Bios).with_disks(vec![disk]))
    }

    /// Begins a deployment and switches the machine on.
    pub fn deploy(&self, node: &Node, image: &str) -> Result<Deployment> {
        self.deploy_with(node, &json!({ "image": image }))
    }

    /// The same with more to say.
    pub fn deploy_with(&self, node: &Node, request: &Value) -> Result<Deployment> {
        let deployment = self.server().api().deploy(&node.name(), request)?;
        node.power_on()?;
        Ok(deployment)
    }

    /// Waits until a deployment has ended well.
    pub fn done(&self, deployment: &Deployment, patience: Duration) -> Result<Deployment> {
        let ended = self.api().wait(&deployment.id, patience, |_| false)?;
        let Deployment { state, step, reason, .. } = &ended;
        ensure!(state == "done", "the deployment {state} in step {step}: {reason:?}");
        Ok(ended)
    }

    /// Waits until a deployment has failed; says why it did.
    pub fn refused(&self, deployment: &Deployment, patience: Duration) -> Result<String> {
        let ended = self.api().wait(&deployment.id, patience, |_| false)?;
        ensure!(ended.state == "failed", "the deployment is {}, not failed", ended.state);
        ended.reason.context("the deployment failed without a reason")
    }

    /// Waits for the moment in which an open deployment is `there`.
    pub fn moment(
        &self,
        deployment: &Deployment,
        there: impl Fn(&Deployment) -> bool,
    ) -> Result<Deployment> {
        let seen = self.api().wait(&deployment.id, PATIENCE, |seen| there(seen))?;
        let Deployment { state, reason, .. } = &seen;
        ensure!(state == "open", "the deployment {state} before the moment: {reason:?}");
        Ok(seen)
    }

    /// How a deployment restarted its node, by its event.
    pub fn restarted(&self, deployment: &Deployment) -> Result<String> {
        let is = |event: &Event| event.deployment.as_ref() == Some(&deployment.id);
        let begin = "step restart: ";
        let way = |event: Event| event.text.split_once(begin).map(|(_, way)| way.to_owned());
        let mut ways = self.api().events(0)?.into_iter().filter(is).filter_map(way);
        ways.next().context("no event says how the node was restarted")
    }

    /// `billet` with the store of this stage.
    pub fn billet(&self, arguments: &[&str]) -> Result<String> {
        let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        self.artefacts.billet(&arguments)
    }

    /// An error with what the server and the machines last said.
    fn explain(&self, error: &anyhow::Error) -> String {
        let mut text =
            format!("{error:#}\n\nthe server's log ends:\n{}\n", self.server().log_tail());
        for node in self.rack().nodes().iter().filter(|node| node.is_on()) {
            text += &format!("\n{}'s console ends:\n{}", node.name(), node.console().tail());
        }
        text
    }
}

/// Whether a deployment is in `step` with at least `percent` of its bytes done.
pub fn is_at(deployment: &Deployment, step: protocol::Step, percent: u64) -> bool {
    if deployment.step > step {
        return true;
    }
    let progress = deployment.progress.as_ref().filter(|progress| progress.step == step);
    deployment.step == step
        && (percent == 0
            || progress.is_some_and(|progress| {
                progress.total > 0 && progress.done * 100 >= progress.total * percent
            }))
}
