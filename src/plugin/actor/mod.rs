//! The task that owns a plugin's kernel: turns, the stack of requests and calls, deadlines.

mod blobs;
mod calls;
mod cells;
mod ending;
mod expiry;
mod jobs;
mod opening;
mod visits;

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{
    StreamExt,
    future::{AbortHandle, Aborted},
    stream::FuturesUnordered,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    blob::{Held, Outbox, Parcel},
    chain::Chain,
    client::{KernelClient, Others, Output},
    language::{Activation, Language},
    plugin::{
        Job, Mail, PluginNews, Reply, SharedGraph, Way,
        member::{Member, Members},
        prints::Prints,
        turn::{Message, Turn, TurnEvent},
        visit::Visit,
    },
    rpc::{Inbound, RpcError},
};

/// How long a shim may take from the turn's `execute_request` to `ready`.
const READY: Duration = Duration::from_secs(20);
/// How long an interpreter may take from `end` to the turn's reply.
const END: Duration = Duration::from_secs(10);
/// How many jobs may wait in the actor beside those in its inbox.
const QUEUED: usize = 1024;

/// Owns one kernel.
pub(super) struct Actor {
    /// For the log: the plugin's, or that of a kernel that several share.
    pub name: Arc<str>,
    /// Who is in the kernel.
    pub members: Arc<Members>,
    /// Its name in the graph.
    pub seat: Arc<str>,
    /// Told when the kernel is gone.
    pub death: watch::Sender<Option<RpcError>>,
    pub client: KernelClient,
    pub language: Arc<Language>,
    pub way: Way,
    /// Told what of it is in use.
    pub activation: watch::Sender<Activation>,
    pub limit_bytes: usize,
    /// Where its kernel puts large values.
    pub outbox: Option<Outbox>,
    pub prints: Arc<Prints>,
    pub graph: SharedGraph,
    pub inbox: mpsc::Receiver<Mail>,
    /// Its code comes in cells that others have the kernel run: what runs of those.
    pub cells: Option<watch::Receiver<Others>>,
    pub state: State,
}

/// What changes while it runs.
#[derive(Default)]
pub(super) struct State {
    turn: Option<OpenTurn>,
    queued: VecDeque<Queued>,
    stack: Vec<Frame>,
    /// Consoles that wait for the interpreter.
    visits: VecDeque<Visit>,
    /// One that has it; becomes ready when it is over.
    visit: Option<oneshot::Receiver<()>>,
    calls: FuturesUnordered<HostCall>,
    /// Each ends with a process that the kernel cannot do without, the kernel's own among them.
    ends: FuturesUnordered<Pin<Box<dyn Future<Output = End> + Send>>>,
    next_id: u64,
    next_token: u64,
    /// The shim has the feature [`rpc::BLOB`].
    takes_blobs: bool,
    /// The shim became ready over this carrier before, so if it does not again, it is gone.
    worked: bool,
    /// What came from a cell that is not known to run.
    early: cells::Early,
    /// When files that nobody sent were last looked for.
    cleaned_at: Option<Instant>,
    /// How often a standing turn ended although nobody ended it.
    fallen: u32,
    /// What did not work; it is not tried again.
    given_up: Option<Activation>,
    /// Requests whose turn ended under them. If another turn opens they were cancelled; if not, the interpreter is gone:
    /// Bash and Prolog restart theirs, empty, and say that all is well.
    limbo: Vec<(Reply, Arc<Member>, RpcError)>,
    /// Why the kernel is gone.
    dead: Option<RpcError>,
    stop: Option<(Duration, oneshot::Sender<()>)>,
}

/// A call of the plugin's under way, with its token.
type HostCall = Pin<Box<dyn Future<Output = (u64, CallOutcome)> + Send>>;
type CallOutcome = Result<Result<Parcel, RpcError>, Aborted>;

struct Queued {
    job: Job,
    /// Told to the graph as waiting.
    told: bool,
}

struct OpenTurn {
    turn: Turn,
    phase: Phase,
    opened_at: Instant,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// No turn, but an ear for cells.
    Listening,
    Opening,
    /// Nothing to do since then, if so.
    Ready {
        idle_since: Option<Instant>,
    },
    Ending {
        since: Instant,
    },
}

/// What is on the plugin's stack, youngest last.
enum Frame {
    /// The plugin serves a request of ours.
    Serving {
        id: u64,
        /// The plugin that serves it: whatever is asked meanwhile, it asks.
        member: Arc<Member>,
        chain: Chain,
        deadline: Instant,
        reply: Option<Reply>,
        /// Who waits for it wants to know what was done of it, also after the deadline.
        is_patient: bool,
        fate: Fate,
        /// What its parameters name.
        _params: Held,
        /// What the last answer to a call of its names: the shim has read an answer before it calls again.
        answer: Held,
    },
    /// The plugin waits for us.
    Waiting {
        id: u64,
        token: u64,
        abort: AbortHandle,
        /// What its arguments name.
        _args: Held,
        answer: Option<Result<Parcel, RpcError>>,
    },
}

/// How far a request has been given up.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Running,
    /// Its pending call was answered with an error; then it is interrupted.
    Unwinding {
        until: Instant,
    },
    /// The shim was asked to cancel it; then it is interrupted.
    Asked {
        until: Instant,
    },
    /// It was interrupted; then the kernel is killed.
    Interrupted {
        until: Instant,
    },
}

/// Which process has ended.
enum End {
    Kernel,
    Interpreter,
}

enum Happened {
    Mail(Option<Mail>),
    Turn(TurnEvent),
    Answered(u64, CallOutcome),
    Timer,
    VisitOver,
    End(End),
    /// One of the others' cells has begun or ended.
    Cell,
}

impl Actor {
    pub async fn run(mut self) {
        let mut timer = Box::pin(tokio::time::sleep(Duration::from_secs(3600)));
        let mut exit = self.client.exit();
        self.state.ends.push(Box::pin(async move {
            // An error would mean that nobody watches the process any more.
            let _ = exit.wait_for(Option::is_some).await;
            End::Kernel
        }));
        loop {
            self.advance().await;
            self.prints.set_busy(!self.state.stack.is_empty());
            if self.state.stop.is_some() && self.state.turn.is_none() && self.state.stack.is_empty() {
                break;
            }
            self.arm(&mut timer);
            let state = &mut self.state;
            let turn = async {
                match &mut state.turn {
                    Some(open) if !state.early.is_waiting() => open.turn.next().await,
                    _ => std::future::pending().await,
                }
            };
            let visit = async {
                match &mut state.visit {
                    // It ends with an error when whoever watched it is gone.
                    Some(ended) => drop(ended.await),
                    None => std::future::pending().await,
                }
            };
            // In this order, not in one thrown for each event: it is quicker, and what the plugin says comes first.
            let happened = tokio::select! {
                biased;
                Some(end) = state.ends.next(), if state.dead.is_none() => Happened::End(end),
                () = &mut timer => Happened::Timer,
                event = turn => Happened::Turn(event),
                () = visit => Happened::VisitOver,
                Some((token, outcome)) = state.calls.next(), if !state.calls.is_empty() => {
                    Happened::Answered(token, outcome)
                }
                mail = self.inbox.recv(), if state.queued.len() < QUEUED => Happened::Mail(mail),
                () = changed(&mut self.cells) => Happened::Cell,
            };
            match happened {
                Happened::Mail(Some(Mail::Job(job))) => self.state.queued.push_back(Queued { job, told: false }),
                Happened::Mail(Some(Mail::Use(way))) => {
                    let is_same = self.use_way(way);
                    if !is_same {
                        self.end_turn();
                    }
                }
                Happened::Mail(Some(Mail::TakeBlobs)) => self.state.takes_blobs = true,
                Happened::Mail(Some(Mail::Interrupt)) => self.interrupt().await,
                Happened::Mail(Some(Mail::WatchInterpreter)) => self.watch_interpreter(),
                Happened::Mail(Some(Mail::Visit(visit))) => self.state.visits.push_back(visit),
                Happened::Mail(Some(Mail::InterruptVisit)) => self.interrupt_visit().await,
                Happened::VisitOver => self.visit_over(),
                Happened::Mail(Some(Mail::Stop { grace, done })) => {
                    self.cut_short();
                    self.state.visits.clear();
                    self.interrupt_visit().await;
                    self.state.stop = Some((grace, done));
                }
                // The handle is gone, and with it anyone who could wait.
                Happened::Mail(None) => break,
                Happened::Turn(TurnEvent::Message(message)) => {
                    if let Some(message) = self.not_early(message) {
                        self.receive(message);
                    }
                }
                Happened::Turn(TurnEvent::Keyboard(input)) => self.refuse_keyboard(&input).await,
                Happened::Turn(TurnEvent::Ended(reply)) => self.turn_ended(&reply),
                Happened::Turn(TurnEvent::Failed(error)) => self.turn_failed(error).await,
                Happened::Answered(token, outcome) => self.answered(token, outcome),
                Happened::Timer => self.expire().await,
                Happened::Cell => self.cell_changed(),
                Happened::End(End::Kernel) => self.exited(),
                Happened::End(End::Interpreter) => self.kill("the interpreter behind the kernel ended".into()).await,
            }
        }
        let (grace, done) = match self.state.stop.take() {
            Some((grace, done)) => (grace, Some(done)),
            None => (Duration::ZERO, None),
        };
        self.client.shutdown(grace).await;
        if let Some(done) = done {
            // Whoever asked may have given up.
            let _ = done.send(());
        }
    }

    fn watch_interpreter(&mut self) {
        match self.client.process().child_exits() {
            Ok(exits) => {
                for exit in exits {
                    self.state.ends.push(Box::pin(async move {
                        drop(exit.readable().await);
                        End::Interpreter
                    }));
                }
            }
            // Then its death shows at the next turn.
            Err(error) => tracing::debug!(plugin = &*self.name, %error, "cannot watch the interpreter"),
        }
    }

    /// Do all that can be done now.
    async fn advance(&mut self) {
        if let Some(error) = &self.state.dead {
            self.state.visits.clear();
            for Queued { job, told } in self.state.queued.drain(..) {
                if told {
                    self.graph.lock().unwrap_or_else(PoisonError::into_inner).stop_waiting(job.chain.id, &self.seat);
                }
                let error = RpcError { not_begun: true, ..error.clone() };
                drop(job.reply.send(Err(error.in_plugin(&job.member.name))));
            }
            return;
        }
        self.answer_top();
        self.start_visit().await;
        while let Some(index) = self.startable() {
            if !self.is_ready() {
                break;
            }
            self.start(index);
        }
        let waiting = !self.state.queued.is_empty() || !self.state.limbo.is_empty();
        let is_standing = self.way.activation.is_standing();
        let is_visited = self.is_visited();
        match &mut self.state.turn {
            None if is_visited => {}
            None if waiting || (is_standing && self.state.stop.is_none()) => self.open_turn().await,
            None if self.cells.is_some() && self.state.stop.is_none() => self.listen().await,
            None => {}
            Some(OpenTurn { phase: Phase::Listening, .. }) => {
                if self.state.stop.is_some() {
                    self.state.turn = None;
                } else if waiting && !self.is_in_cell() && self.state.stack.is_empty() {
                    self.open_turn().await;
                }
            }
            Some(open) => {
                if let Phase::Ready { idle_since } = &mut open.phase {
                    if self.state.stack.is_empty() && (!open.turn.is_standing() || self.state.stop.is_some()) {
                        let since = *idle_since.get_or_insert_with(Instant::now);
                        if since.elapsed() >= self.language.turn.linger() || self.state.stop.is_some() {
                            self.end_turn();
                        }
                    } else {
                        *idle_since = None;
                    }
                }
            }
        }
    }

    fn send(&mut self, message: Message) {
        let Some(open) = &mut self.state.turn else { return };
        if let Phase::Ready { idle_since } = &mut open.phase {
            *idle_since = None;
        }
        if let Err(error) = open.turn.send(message) {
            // The turn itself reports it next.
            tracing::warn!(plugin = &*self.name, %error, "message not sent");
        }
    }

    fn receive(&mut self, message: Inbound) {
        match message {
            Inbound::Ready => {
                if let Some(open) = &mut self.state.turn
                    && open.phase == Phase::Opening
                {
                    open.phase = Phase::Ready { idle_since: None };
                    self.state.worked = true;
                    for (reply, member, error) in self.state.limbo.drain(..) {
                        drop(reply.send(Err(error.in_plugin(&member.name))));
                    }
                }
            }
            Inbound::Response { id, result } => self.finished(id, result),
            Inbound::Request { id, plea } => self.asked(id, plea),
            Inbound::Log { level, message, fields, space } => {
                self.news(space, PluginNews::Log { level, message, fields });
            }
            Inbound::Progress { done, total, message, space } => {
                self.news(space, PluginNews::Progress { done, total, message });
            }
            Inbound::Output { name, text } => self.prints.show(Output::Stream { name, text }, &Member::news),
            Inbound::Handlers { handlers, space } => self.news(space, PluginNews::Handlers(handlers)),
            // It was waited for.
            Inbound::Cell { .. } => {}
            Inbound::Bad { reason } => self.news(None, PluginNews::Odd { reason }),
        }
    }

    /// News of the plugin in this space, else of that which is served, or was served last.
    fn news(&self, space: Option<u64>, news: PluginNews) {
        let named = space.and_then(|space| self.members.find(space));
        if let Some(member) = named.or_else(|| self.served()).or_else(|| self.prints.owner()) {
            member.news(news);
        }
    }

    /// The plugin that is served: whose request is on top of the stack.
    fn served(&self) -> Option<Arc<Member>> {
        self.state.stack.iter().rev().find_map(|frame| match frame {
            Frame::Serving { member, .. } => Some(member.clone()),
            Frame::Waiting { .. } => None,
        })
    }

    async fn refuse_keyboard(&mut self, input: &crate::client::Input) {
        let reason =
            format!("asked the keyboard behind the shim's back (`{}`); answered with an empty line", input.prompt);
        self.news(None, PluginNews::Odd { reason });
        if let Some(open) = &self.state.turn {
            // A turn that cannot be answered reports it next.
            let _ = open.turn.answer_keyboard(input, "").await;
        }
    }
}

/// A cell of somebody else's has begun or ended.
async fn changed(cells: &mut Option<watch::Receiver<Others>>) {
    if let Some(cells) = cells
        && cells.changed().await.is_ok()
    {
        return;
    }
    // With the client all ends.
    std::future::pending().await
}
