//! Who is told of new jobs: few of those who wait for them.

use tokio::sync::broadcast::Receiver;
use umbel_model::Token;

use super::*;

/// A process with one worker.
struct Process {
    broker: RedisBroker,
    worker: WorkerId,
    work: Receiver<Signal>,
}

impl Process {
    async fn start(server: &RedisServer, n: u32) -> Self {
        let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
        let work = broker.signals(Topic::Work).await.unwrap();
        let process = Self { broker, worker: WorkerId::new(format!("w{n}")).unwrap(), work };
        while !process.broker.signals.hears(&process.broker.connection, &process.worker) {
            tokio::task::yield_now().await;
        }
        process
    }

    async fn claim(&self, max: u32) -> usize {
        self.claim_of(vec![QueueName::default()].into(), max).await
    }

    async fn claim_of(&self, queues: ClaimQueues, max: u32) -> usize {
        static SEED: AtomicU64 = AtomicU64::new(0);
        let claim = Claim {
            worker: self.worker.clone(),
            queues,
            max,
            lease_ms: DEFAULT_LEASE_MS,
            token_seed: Token::new(format!("h{}", SEED.fetch_add(1, Ordering::SeqCst))).unwrap(),
            limited: Default::default(),
            in_row: 1,
        };
        self.broker.claim(&claim).await.unwrap().len()
    }
}

/// Which processes were told since the last time. What is published for all comes behind what was published for each.
async fn told(processes: &mut [Process]) -> Vec<usize> {
    let connection = &processes[0].broker.connection;
    let publish = redis::cmd("PUBLISH").arg(connection.keys.channel(Topic::Work)).arg("").to_owned();
    processes[0].broker.command(&publish).await.unwrap();
    let mut told = Vec::new();
    for (n, process) in processes.iter_mut().enumerate() {
        while process.work.recv().await.unwrap() != Signal::Resync {
            told.push(n);
        }
    }
    told.dedup();
    told
}

fn job(n: u64) -> NewJob {
    cost::plain_job(n)
}

#[tokio::test]
async fn at_most_two_of_a_hundred_idle_workers_are_told_of_one_job() {
    let server = RedisServer::start(Options::default());
    let mut processes = Vec::new();
    for n in 0..100 {
        let process = Process::start(&server, n).await;
        assert_eq!(process.claim(4).await, 0);
        processes.push(process);
    }
    assert_eq!(told(&mut processes).await, [0; 0]);
    processes[0].broker.submit(&[job(1)]).await.unwrap();
    assert_eq!(told(&mut processes).await, [98, 99], "those that began to wait last");
    // The first one finds it and waits for more, because it has room; the other one finds nothing.
    assert_eq!((processes[98].claim(4).await, processes[99].claim(4).await), (1, 0));
    let jobs: Vec<NewJob> = (2..5).map(job).collect();
    processes[0].broker.submit(&jobs).await.unwrap();
    assert_eq!(told(&mut processes).await, [96, 97, 98, 99], "as many as there are jobs, and one more");
    // One that gets all that it wants is not told of more.
    assert_eq!((processes[99].claim(4).await, processes[98].claim(4).await), (3, 0));
    processes[0].broker.submit(&[job(5)]).await.unwrap();
    assert_eq!(processes[99].claim(1).await, 1);
    told(&mut processes).await;
    processes[0].broker.submit(&[job(6)]).await.unwrap();
    assert!(!told(&mut processes).await.contains(&99));
}

#[tokio::test]
async fn all_are_told_of_a_job_when_nobody_waits_and_the_queue_was_empty() {
    let server = RedisServer::start(Options::default());
    let mut processes = Vec::new();
    for n in 0..3 {
        processes.push(Process::start(&server, n).await);
    }
    processes[0].broker.submit(&[job(1)]).await.unwrap();
    assert_eq!(told(&mut processes).await, [0, 1, 2]);
    // Whoever comes looks anyway.
    processes[0].broker.submit(&[job(2)]).await.unwrap();
    assert_eq!(told(&mut processes).await, [0; 0]);
}

#[tokio::test]
async fn workers_that_ask_all_queues_are_told_of_any_behind_those_that_named_it() {
    let server = RedisServer::start(Options::default());
    let mut processes = Vec::new();
    for n in 0..4 {
        processes.push(Process::start(&server, n).await);
    }
    assert_eq!(processes[0].claim(4).await, 0);
    for process in &processes[1..3] {
        assert_eq!(process.claim_of(ClaimQueues::AllBut(Vec::new()), 4).await, 0);
    }
    // A hint would be lost on one that may not serve the queue.
    assert_eq!(processes[3].claim_of(ClaimQueues::AllBut(vec!["x".parse().unwrap()]), 4).await, 0);
    processes[0].broker.submit(&[job(1)]).await.unwrap();
    assert_eq!(told(&mut processes).await, [0, 2]);
    let other = NewJob { queue: "other".parse().unwrap(), ..job(2) };
    processes[0].broker.submit(&[other]).await.unwrap();
    assert_eq!(told(&mut processes).await, [1]);
}

#[tokio::test]
async fn a_process_subscribes_only_to_what_it_listens_to() {
    let server = RedisServer::start(Options::default());
    let process = Process::start(&server, 1).await;
    let keys = &process.broker.connection.keys;
    let channels = redis::cmd("PUBSUB").arg("CHANNELS").to_owned();
    let mut names = answers::Answer::new(process.broker.command(&channels).await.unwrap()).unwrap();
    let mut found = Vec::new();
    while !names.done() {
        found.push(names.text().unwrap());
    }
    found.sort();
    assert_eq!(found, [keys.channel(Topic::Work), keys.work_channel(&process.worker)]);
    process.broker.forget_worker(&process.worker).await.unwrap();
    while process.broker.signals.hears(&process.broker.connection, &process.worker) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn cost_of_a_submission_while_others_listen() {
    for listeners in [1, 100] {
        let server = RedisServer::start(Options::default());
        let mut processes = Vec::new();
        for n in 0..listeners {
            let process = Process::start(&server, n).await;
            process.claim(4).await;
            processes.push(process);
        }
        let broker = &processes[0].broker;
        let before = cost::meter(broker).await;
        for n in 0..2_000 {
            broker.submit(&[job(n)]).await.unwrap();
        }
        let after = cost::meter(broker).await;
        println!("{listeners} listen: {:.1} us of CPU a submission", (after.1 - before.1) / 2_000.0);
    }
}
