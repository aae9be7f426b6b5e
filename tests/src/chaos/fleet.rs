//! The processes of a chaos run: a server and workers, each behind a proxy of its own before Redis.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::store::Store;
use crate::{Client, Process, free_port, process::command_of, proxy::Proxy, service::answers, until};

/// Short, so that many leases are lost in a run.
pub(crate) const LEASE: Duration = Duration::from_secs(3);
/// Jobs at once in each worker: more than cores, because many sleep.
const CONCURRENCY: &str = "32";
/// How long the service may need to find its way back.
const BACK_LIMIT: Duration = Duration::from_secs(60);

/// A process that can be killed and started again, and the proxy that it reaches Redis by.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    /// The program of its next start.
    pub(crate) binary: PathBuf,
    arguments: Vec<OsString>,
    log: PathBuf,
    pub(crate) proxy: Proxy,
    process: Option<Process>,
    /// Stopped by SIGSTOP.
    stalled: bool,
}

impl Member {
    /// It runs, and is not stopped.
    pub(crate) fn is_up(&self) -> bool {
        self.process.is_some() && !self.stalled
    }

    /// Starts it unless it runs.
    pub(crate) fn start(&mut self) -> Result<()> {
        if self.process.is_none() {
            self.process = Some(Process::start(&self.name, command_of(&self.binary, &self.arguments), &self.log)?);
        }
        Ok(())
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        self.stalled = false;
        self.process.take().map_or(Ok(()), |mut process| process.kill())
    }

    /// SIGTERM, and the wait for its end.
    pub(crate) async fn terminate(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        let status = process.terminate(BACK_LIMIT).await?;
        ensure!(status.success(), "{} ended with {status} after SIGTERM", self.name);
        Ok(())
    }

    pub(crate) fn stall(&mut self) -> Result<()> {
        self.stalled = true;
        self.process.as_ref().map_or(Ok(()), |process| process.signal(libc::SIGSTOP))
    }

    pub(crate) fn resume(&mut self) -> Result<()> {
        self.stalled = false;
        self.process.as_ref().map_or(Ok(()), |process| process.signal(libc::SIGCONT))
    }

    /// An error if it ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::check_alive)
    }

    /// Starts it again if Redis refused it when it started, as a service manager does: its rights were taken away just then. An
    /// error if it ended by itself for another reason.
    pub(crate) fn revive(&mut self) -> Result<()> {
        let Err(ended) = self.check() else { return Ok(()) };
        let log = fs::read(&self.log).unwrap_or_default();
        let last = String::from_utf8_lossy(&log).trim_end().lines().last().unwrap_or_default().to_owned();
        if !last.starts_with("error[broker_refused]") {
            return Err(ended);
        }
        self.process = None;
        self.start()
    }

    /// Lines of its log with this text, over all its lives.
    pub(crate) fn said(&self, text: &str) -> u64 {
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log).lines().filter(|line| line.contains(text)).count() as u64
    }
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Fleet {
    /// The server, then the workers.
    pub(crate) members: Vec<Member>,
    pub(crate) client: Arc<Client>,
    pub(crate) store: Store,
    /// Leads to the primary, without faults: for the verbs and the zombies.
    straight: Proxy,
    home: TempDir,
    /// For the verbs, and for what is started first.
    binary: PathBuf,
}

impl Fleet {
    /// A server that the client asks, `others` servers beside it, and workers.
    pub(crate) async fn start(binary: PathBuf, others: usize, workers: usize) -> Result<Self> {
        let store = Store::start()?;
        let straight = Proxy::start(store.port()).await?;
        let home = TempDir::new()?;
        let listen = format!("127.0.0.1:{}", free_port()?);
        let client = Arc::new(Client::new(&format!("http://{listen}"), "")?);
        let mut fleet = Self { members: Vec::new(), client, store, straight, home, binary };
        fleet.add("server", &["server", "--listen", &listen]).await?;
        for number in 0..others {
            let listen = format!("127.0.0.1:{}", free_port()?);
            fleet.add(&format!("server-{}", number + 2), &["server", "--listen", &listen]).await?;
        }
        let lease = format!("{}ms", LEASE.as_millis());
        for number in 0..workers {
            let arguments = ["worker", "--lease", &lease, "--concurrency", CONCURRENCY];
            fleet.add(&format!("worker-{number}"), &arguments).await?;
        }
        let server = &mut fleet.members[0];
        server.start()?;
        answers(&fleet.client, server.process.as_mut().context("it was started")?).await?;
        let token = fleet.umbel(&["token", "create", "-o", "id"]).await?.1;
        fleet.client.set_token(token.trim());
        for member in &mut fleet.members {
            member.start()?;
        }
        Ok(fleet)
    }

    async fn add(&mut self, name: &str, arguments: &[&str]) -> Result<()> {
        let proxy = Proxy::start(self.store.port()).await?;
        let mut arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        arguments.extend(["--broker".into(), proxy.redis_url().into()]);
        arguments.extend(["--data".into(), self.home.path().join("data").into_os_string()]);
        let log = self.home.path().join(format!("{name}.log"));
        let (name, binary) = (name.to_owned(), self.binary.clone());
        self.members.push(Member { name, binary, arguments, log, proxy, process: None, stalled: false });
        Ok(())
    }

    /// The address of the primary, without faults on the way.
    pub(crate) fn redis_url(&self) -> String {
        self.straight.redis_url()
    }

    /// Promotes the replica, and leads new connections to it. Old ones still lead to the server that is no primary any
    /// more. False when the replica was not in sync and nothing changed.
    pub(crate) async fn promote(&mut self) -> Result<bool> {
        let promoted = self.store.promote().await?;
        let port = self.store.port();
        self.members.iter().map(|member| &member.proxy).chain([&self.straight]).for_each(|proxy| proxy.lead_to(port));
        Ok(promoted)
    }

    /// Runs a verb of the binary on this Redis, directly: its status and what it wrote to stdout.
    pub(crate) async fn umbel(&self, arguments: &[&str]) -> Result<(i32, String)> {
        self.umbel_of(&self.binary, arguments).await
    }

    /// The same with another binary.
    pub(crate) async fn umbel_of(&self, binary: &Path, arguments: &[&str]) -> Result<(i32, String)> {
        let mut command = command_of(binary, arguments);
        command.args(["--broker", &self.redis_url(), "--data"]).arg(self.home.path().join("data"));
        command.current_dir(self.home.path()).env("HOME", self.home.path());
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        let status = output.status.code().unwrap_or(-1);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(status == 0 || !text.is_empty(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok((status, text))
    }

    /// Waits until the API answers with its broker.
    pub(crate) async fn ready(&self) -> Result<()> {
        until("the API answers again", BACK_LIMIT, || async {
            Ok((self.client.get("/readyz").await?.status == 200).then_some(()))
        })
        .await
    }
}
