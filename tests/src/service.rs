//! Umbel as its users run it: `umbel dev` in one process, or a server and workers on Redis.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    Client, Process, durable_redis, free_port,
    process::{command_of, umbel_binary, umbel_command},
    until,
};

/// How long a service may take to answer, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Options of `umbel dev`.
#[derive(Debug, Default)]
pub struct DevOptions {
    /// Another broker than SQLite in the data folder.
    pub broker: Option<String>,
    /// The data folder; a fresh one by default.
    pub data: Option<PathBuf>,
    /// Further arguments.
    pub arguments: Vec<String>,
    /// Environment.
    pub environment: Vec<(String, String)>,
    /// Another binary than the one under test.
    pub binary: Option<PathBuf>,
}

/// A running `umbel dev`.
#[derive(Debug)]
pub struct Dev {
    pub process: Process,
    pub client: Client,
    /// Its data folder.
    pub data: PathBuf,
    options: DevOptions,
    port: u16,
    home: TempDir,
}

impl Dev {
    /// On SQLite, in a fresh folder.
    pub async fn start() -> Result<Self> {
        Self::with(DevOptions::default()).await
    }

    /// On this broker, with data in a fresh folder.
    pub async fn on(broker: &str) -> Result<Self> {
        Self::with(DevOptions { broker: Some(broker.to_owned()), ..DevOptions::default() }).await
    }

    /// With these options; waits until it answers.
    pub async fn with(options: DevOptions) -> Result<Self> {
        let mut dev = Self::launch(options)?;
        dev.ready().await?;
        Ok(dev)
    }

    /// Starts it and does not wait.
    pub fn launch(options: DevOptions) -> Result<Self> {
        let home = TempDir::new()?;
        let data = options.data.clone().unwrap_or_else(|| home.path().join("data"));
        let port = free_port()?;
        let process = Self::spawn(&options, &data, port, home.path())?;
        let client = Client::new(&format!("http://127.0.0.1:{port}"), "")?;
        Ok(Self { process, client, data, options, port, home })
    }

    fn spawn(options: &DevOptions, data: &Path, port: u16, home: &Path) -> Result<Process> {
        let binary = options.binary.clone().map_or_else(umbel_binary, Ok)?;
        let mut command = command_of(&binary, &["dev", "--port", &port.to_string()]);
        command.arg("--data").arg(data).args(&options.arguments).current_dir(home).env("HOME", home);
        if let Some(broker) = &options.broker {
            command.args(["--broker", broker]);
        }
        command.envs(options.environment.iter().map(|(name, value)| (name, value)));
        Process::start("umbel dev", command, &home.join("dev.log"))
    }

    /// Waits until it answers.
    pub async fn ready(&mut self) -> Result<()> {
        answers(&self.client, &mut self.process).await?;
        // The profile is written right after the first answer can be given.
        let token = until("the profile is there", START_LIMIT, || async { Ok(profile_token(&self.data).ok()) }).await?;
        self.client.set_token(&token);
        Ok(())
    }

    /// Starts it again on the same data, port and options, after it ended.
    pub async fn restart(&mut self) -> Result<()> {
        self.process = Self::spawn(&self.options, &self.data, self.port, self.home.path())?;
        self.ready().await
    }

    /// A client with a new token, made with these arguments: of another tenant, of an operator.
    pub async fn another(&mut self, arguments: &[&str]) -> Result<Client> {
        self.others(&[arguments]).await?.pop().context("a client")
    }

    /// A client of each of these tenants.
    pub async fn tenants(&mut self, names: &[impl AsRef<str>]) -> Result<Vec<Client>> {
        let arguments: Vec<[&str; 2]> = names.iter().map(|name| ["--tenant", name.as_ref()]).collect();
        self.others(&arguments.iter().map(|pair| &pair[..]).collect::<Vec<_>>()).await
    }

    /// A client for each of these lists of arguments.
    async fn others(&mut self, each: &[&[&str]]) -> Result<Vec<Client>> {
        // A data folder is one process's.
        let is_shared = self.options.broker.is_some();
        if !is_shared {
            self.process.terminate(START_LIMIT).await?;
        }
        let mut clients = Vec::with_capacity(each.len());
        for arguments in each {
            let mut command = umbel_command(&["token", "create", "-o", "id", "--data"])?;
            command.arg(&self.data).args(*arguments).current_dir(self.home.path()).env("HOME", self.home.path());
            if let Some(broker) = &self.options.broker {
                command.args(["--broker", broker]);
            }
            clients.push(Client::new(self.client.url(), &new_token(&mut command)?)?);
        }
        if !is_shared {
            self.restart().await?;
        }
        Ok(clients)
    }

    /// Runs a client verb as a user would, in a folder whose parent has the profile.
    pub fn umbel(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.command(arguments)?;
        command.output().context("cannot start umbel")
    }

    /// A client verb that was not started.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = umbel_command(arguments)?;
        command.current_dir(self.home.path()).env("HOME", self.home.path());
        command.env("UMBEL_URL", self.client.url()).env("UMBEL_TOKEN", self.client.token());
        Ok(command)
    }
}

/// Runs a scenario with `umbel dev` on SQLite, and then on Redis. The guest `numbers` is there; any other one takes time
/// to compile, and is pushed by those who need it.
pub async fn on_both(arguments: &[&str], scenario: impl AsyncFn(&mut Dev) -> Result<()>) -> Result<()> {
    let redis = durable_redis();
    for broker in [None, Some(redis.url())] {
        let name = if broker.is_some() { "on Redis" } else { "on SQLite" };
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut dev = Dev::with(DevOptions { broker, arguments, ..DevOptions::default() }).await?;
        dev.client.push("numbers").await?;
        scenario(&mut dev).await.context(name)?;
    }
    Ok(())
}

/// A server and workers on one Redis, with one folder for modules.
#[derive(Debug)]
pub struct Split {
    pub server: Process,
    pub workers: Vec<Process>,
    pub client: Client,
    broker: String,
    environment: Vec<(String, String)>,
    home: TempDir,
}

impl Split {
    /// A server with `workers` workers.
    pub async fn start(broker: &str, workers: usize, arguments: &[&str]) -> Result<Self> {
        Self::within(Vec::new(), broker, workers, arguments).await
    }

    /// The same, where all processes have this environment.
    pub async fn within(
        environment: Vec<(String, String)>,
        broker: &str,
        workers: usize,
        arguments: &[&str],
    ) -> Result<Self> {
        let home = TempDir::new()?;
        let (server, client) = start_server(broker, home.path(), "server.log", &environment).await?;
        let mut split = Self { server, workers: Vec::new(), client, broker: broker.to_owned(), environment, home };
        // May do everything: the scenarios order workers about.
        split.client.set_token(&split.create_token(&["--operator"])?);
        for _ in 0..workers {
            split.add_worker(arguments)?;
        }
        Ok(split)
    }

    /// One more server on the same broker, and a client of it with the same token.
    pub async fn another_server(&self) -> Result<(Process, Client)> {
        let (server, client) = start_server(&self.broker, self.home.path(), "server-2.log", &self.environment).await?;
        client.set_token(&self.client.token());
        Ok((server, client))
    }

    /// A client with a new token, made with these arguments.
    pub fn another(&self, arguments: &[&str]) -> Result<Client> {
        Client::new(self.client.url(), &self.create_token(arguments)?)
    }

    fn create_token(&self, arguments: &[&str]) -> Result<String> {
        let mut command = umbel_command(&["token", "create", "--broker", &self.broker, "-o", "id", "--data"])?;
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.arg(self.home.path().join("data")).current_dir(self.home.path()).env("HOME", self.home.path());
        new_token(command.args(arguments))
    }

    /// Runs a verb of the binary on this broker, directly.
    pub fn umbel(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = umbel_command(arguments)?;
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.args(["--broker", &self.broker, "--data"]).arg(self.home.path().join("data"));
        command.current_dir(self.home.path()).env("HOME", self.home.path());
        command.output().context("cannot start umbel")
    }

    /// Starts one more worker.
    pub fn add_worker(&mut self, arguments: &[&str]) -> Result<()> {
        let broker = self.broker.clone();
        self.add_worker_by(&broker, arguments)
    }

    /// Starts one more worker that reaches the broker by another address, such as a proxy's.
    pub fn add_worker_by(&mut self, broker: &str, arguments: &[&str]) -> Result<()> {
        let mut command = umbel_command(&["worker", "--broker", broker, "--data"])?;
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.arg(self.home.path().join("data")).args(arguments);
        command.current_dir(self.home.path()).env("HOME", self.home.path());
        let number = self.workers.len();
        let log = self.home.path().join(format!("worker-{number}.log"));
        self.workers.push(Process::start(&format!("umbel worker {number}"), command, &log)?);
        Ok(())
    }
}

/// Starts a server and waits until it answers.
async fn start_server(
    broker: &str,
    home: &Path,
    log: &str,
    environment: &[(String, String)],
) -> Result<(Process, Client)> {
    let listen = format!("127.0.0.1:{}", free_port()?);
    let mut command = umbel_command(&["server", "--broker", broker, "--listen", &listen, "--data"])?;
    command.arg(home.join("data")).current_dir(home).env("HOME", home);
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    let mut server = Process::start("umbel server", command, &home.join(log))?;
    let client = Client::new(&format!("http://{listen}"), "")?;
    answers(&client, &mut server).await?;
    Ok((server, client))
}

/// The token that this command makes.
fn new_token(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    ensure!(output.status.success(), "token create: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Waits until the service answers, or ends.
pub async fn answers(client: &Client, process: &mut Process) -> Result<()> {
    let start = std::time::Instant::now();
    loop {
        process.check_alive()?;
        let live = until("the service answers", Duration::from_millis(200), || async {
            // A service that still waits for its broker accepts connections and says nothing.
            let ask = client.anonymous(Method::GET, "/livez").timeout(Duration::from_secs(1));
            let answer = client.send(ask).await?;
            Ok((answer.status == 200).then_some(()))
        });
        if live.await.is_ok() {
            return Ok(());
        }
        ensure!(start.elapsed() < START_LIMIT, "no answer within {START_LIMIT:?}; output:\n{}", process.output());
    }
}

/// The token in the profile that `umbel dev` writes.
fn profile_token(data: &Path) -> Result<String> {
    let path = data.join("profile.json");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let profile: Value = serde_json::from_str(&text)?;
    Ok(profile["token"].as_str().context("a profile without a token")?.to_owned())
}
