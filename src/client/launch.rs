//! Starting a kernel until it answers.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::{
    channels::Channels,
    client::{
        ClientError, Counters, Ids, KernelClient, Others, Outputs, Startup,
        iopub::Drain,
        startup::milliseconds,
        task::{Command, IopubSeen, PROMPTS, Task},
    },
    connection::ConnectionInfo,
    language::Interrupt,
    provision::{self, Exit, LaunchSpec, Launched, Tail},
    wire::{Signer, content},
};

/// How often new ports are tried when somebody else took one.
const PORT_TRIES: usize = 4;
/// How long the first nudge waits for a sign of life on iopub; each further one waits three times as long. The first is
/// short because a kernel that has just taken our subscription may have sent its first words before.
const NUDGE: Duration = Duration::from_millis(20);
/// How often a wrapper kernel is asked whether its interpreter is there.
const INTERPRETER: Duration = Duration::from_millis(20);
/// How many nudges are given before iopub is taken for silent.
const NUDGES: u32 = 5;

/// How to start a kernel and how to treat it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchOptions {
    /// What to start.
    pub spec: LaunchSpec,
    /// How long it may take until it answers.
    pub startup: Duration,
    /// What really interrupts its code.
    pub interrupt: Interrupt,
    /// It binds no control socket.
    pub no_control: bool,
    /// It does not end on `shutdown_request`.
    pub no_shutdown: bool,
    /// Version of the language that it gives while its interpreter is not there yet.
    pub unready_version: Option<String>,
}

impl KernelClient {
    /// Start a kernel and wait until it answers on shell and iopub.
    ///
    /// New ports are tried, three times at most, when the kernel ends early because somebody else took one. The wait
    /// ends at once when the process does. Dropping the future kills the kernel.
    ///
    /// # Errors
    ///
    /// - [`ClientError::Launch`]: the process could not be started.
    /// - [`ClientError::DiedAtLaunch`]: it ended before it answered.
    /// - [`ClientError::Deaf`]: it did not answer in time.
    pub async fn launch(options: LaunchOptions) -> Result<Self, ClientError> {
        let until = Instant::now() + options.startup;
        let mut tries = 1;
        loop {
            let began = Instant::now();
            let launched = provision::launch(&options.spec).await?;
            let startup = Startup { spawn_ms: milliseconds(began.elapsed()), ..Startup::default() };
            let (tail, mut exit) = (launched.process.output_tail(), launched.process.exit());
            // R lives on without the port that it could not bind; the others end.
            let outcome = tokio::select! {
                outcome = Self::meet(launched, &options, until, startup) => Some(outcome),
                exit = exited(&mut exit) => {
                    let name = options.spec.kernel_name.clone();
                    Some(Err(ClientError::DiedAtLaunch { name, exit, output_tail: tail.text() }))
                }
                () = says_in_use(&tail), if tries < PORT_TRIES => None,
            };
            match outcome {
                Some(outcome) if outcome.is_ok() || tries == PORT_TRIES || !is_in_use(&tail.text()) => return outcome,
                _ => {
                    tracing::warn!(kernel = options.spec.kernel_name, tries, "a port was taken; trying others");
                    tries += 1;
                }
            }
        }
    }

    /// Be one more client of a kernel that somebody else has started, and wait until it answers. It is not ended with the
    /// client.
    ///
    /// # Errors
    ///
    /// - [`ClientError::Launch`]: there is no such process.
    /// - [`ClientError::Deaf`]: it did not answer in time; a cell that runs may be why.
    pub async fn adopt(
        connection: ConnectionInfo,
        process_id: u32,
        options: LaunchOptions,
    ) -> Result<Self, ClientError> {
        let until = Instant::now() + options.startup;
        let launched = provision::adopt(connection, process_id)?;
        Self::meet(launched, &options, until, Startup::default()).await
    }

    /// Open the channels of a process and wait until it answers.
    async fn meet(
        launched: Launched,
        options: &LaunchOptions,
        until: Instant,
        mut startup: Startup,
    ) -> Result<Self, ClientError> {
        let mut began = Instant::now();
        let mut lap = || milliseconds(std::mem::replace(&mut began, Instant::now()).elapsed());
        let Launched { process, connection, reservation } = launched;
        let tail = process.output_tail();
        let deaf = |missing| ClientError::Deaf {
            name: options.spec.kernel_name.clone(),
            startup: options.startup,
            missing,
            output_tail: tail.text(),
        };
        let with_control = !options.no_control;
        let late = timeout_at(until, Channels::wait_until_listening(&connection, with_control))
            .await
            .map_err(|_| deaf("it does not listen on its ports"))??;
        startup.listening_ms = lap();
        let session = uuid::Uuid::new_v4().simple().to_string();
        let connecting = Channels::connect(&connection, &session, with_control);
        let channels = timeout_at(until, connecting).await.map_err(|_| deaf("its sockets do not answer"))??;
        drop(reservation);
        startup.connect_ms = lap();
        startup.host_ms = startup.spawn_ms + startup.connect_ms + milliseconds(late);

        let signer = Signer::new(&connection.signature_scheme, connection.key.as_bytes()).map_err(|error| {
            // We chose scheme and key ourselves.
            ClientError::Json(serde::de::Error::custom(error))
        })?;
        let counters = Arc::new(Counters::default());
        let (commands, command_receiver) = mpsc::channel::<Command>(256);
        let (news, news_receiver) = mpsc::unbounded_channel();
        let (outputs, output_receiver) = mpsc::unbounded_channel();
        let (iopub_seen, mut seen) = watch::channel(IopubSeen::default());
        let told = IopubSeen::default();
        let (told_others, others_running) = watch::channel(Others::default());
        let others = options.spec.shared_key.as_ref().map(|_| (session.clone(), told_others));
        let drain =
            Drain { iopub: channels.iopub, signer: signer.clone(), counters: counters.clone(), news, told, others };
        let task = Task {
            shell: channels.shell,
            control: channels.control,
            stdin: channels.stdin,
            signer,
            commands: command_receiver,
            news: news_receiver,
            outputs,
            exit: process.exit(),
            output_tail: Box::new(move || tail.text()),
            counters: counters.clone(),
            iopub_seen,
            waiters: HashMap::new(),
            prompts: Arc::new(Semaphore::new(PROMPTS)),
            broken: None,
        };
        let tail = process.output_tail();
        let mut client = Self {
            commands,
            ids: Ids { session, next: Arc::new(AtomicU64::new(1)) },
            process,
            options: options.clone(),
            info: content::KernelInfoReply::default(),
            startup: Startup::default(),
            welcomed: false,
            heartbeat: connection.endpoint(connection.hb_port),
            connection,
            outputs: Some(Outputs(output_receiver)),
            others: others_running,
            counters,
            tasks: [tokio::spawn(task.run()), tokio::spawn(drain.run())],
        };
        match client.kernel_info(until.saturating_duration_since(Instant::now())).await {
            Ok(info) => client.info = info,
            Err(ClientError::Gone { exit, output_tail }) => {
                return Err(ClientError::DiedAtLaunch { name: options.spec.kernel_name.clone(), exit, output_tail });
            }
            Err(ClientError::Timeout { .. }) => {
                return Err(ClientError::Deaf {
                    name: options.spec.kernel_name.clone(),
                    startup: options.startup,
                    missing: "it listens, but does not answer `kernel_info_request`",
                    output_tail: tail.text(),
                });
            }
            Err(error) => return Err(error),
        }
        client.wait_for_interpreter(until).await?;
        startup.kernel_info_ms = lap();
        client.nudge(&mut seen, until).await?;
        startup.iopub_ms = lap();
        client.startup = startup;
        client.welcomed = seen.borrow().welcome;
        Ok(client)
    }

    /// A wrapper kernel may answer before the interpreter behind it is there.
    async fn wait_for_interpreter(&mut self, until: Instant) -> Result<(), ClientError> {
        while self.options.unready_version.as_ref() == Some(&self.info.language_info.version) {
            sleep(INTERPRETER).await;
            self.info = self.kernel_info(until.saturating_duration_since(Instant::now())).await?;
        }
        Ok(())
    }

    /// A subscription takes effect in the kernel at its own time; ask again until something comes over iopub.
    async fn nudge(&self, seen: &mut watch::Receiver<IopubSeen>, until: Instant) -> Result<(), ClientError> {
        for nudge in 0..NUDGES {
            if timeout(NUDGE * 3u32.pow(nudge), seen.wait_for(|seen| seen.any)).await.is_ok() {
                return Ok(());
            }
            self.kernel_info(until.saturating_duration_since(Instant::now())).await?;
        }
        tracing::warn!(kernel = self.options.spec.kernel_name, "nothing comes over iopub; its outputs may be lost");
        Ok(())
    }
}

/// Waits until the kernel says that it could not bind a port.
async fn says_in_use(tail: &Tail) {
    tail.wait_for(is_in_use).await;
}

/// In the words of the C library, which libzmq, pbdZMQ and the others pass on.
fn is_in_use(text: &str) -> bool {
    text.to_lowercase().contains("address already in use")
}

/// Waits for the process to end.
async fn exited(exit: &mut watch::Receiver<Option<Exit>>) -> Exit {
    loop {
        if let Ok(exit) = exit.wait_for(Option::is_some).await
            && let Some(exit) = *exit
        {
            return exit;
        }
        // The waiter is dropped with the process only, which the caller owns.
        std::future::pending::<()>().await;
    }
}
