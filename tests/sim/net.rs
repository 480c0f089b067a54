//! Frames between the sites: lost, late, twice, and one way only.

use std::cell::RefCell;
use std::rc::Rc;

use backstay_types::frame::{Begin, PlanState, Promoted, SharePlan, TakeBack, TakeOver};
use backstay_types::{Class, Epoch, RestorePointId, SessionId};
use tokio::sync::oneshot;

use crate::exec::Owner;
use crate::node::{Fault, Node};
use crate::world::{Content, World};

/// A question to the other site.
#[derive(Debug, Clone)]
pub enum Question {
    Share(SharePlan),
    Query,
    Begin(Begin),
    /// Everything after the begin: what is sent, what the point shows, and what it is described by.
    Commit {
        session: SessionId,
        id: RestorePointId,
        sent: Vec<u32>,
        content: Content,
    },
    Promoted(Promoted),
    TakeOver(TakeOver),
    TakeBack(TakeBack),
    HandOver(Epoch),
}

/// An answer.
#[derive(Debug, Clone)]
pub enum Reply {
    Done,
    State(PlanState),
    Ready { has_parent: bool },
    TakenOver(Epoch),
    Refused { class: Class, epoch: Option<Epoch> },
}

impl World {
    /// How long a message takes; `None` if it is lost.
    pub fn passage(&self) -> Option<u64> {
        let rough = self.rough.get();
        if self.chance(rough) {
            return None;
        }
        Some(if self.chance(rough) { self.exec.draw(8_000) } else { 5 + self.exec.draw(60) })
    }

    fn carry(
        self: &Rc<Self>,
        from: usize,
        question: Question,
        answer: &Rc<RefCell<Option<oneshot::Sender<Reply>>>>,
    ) {
        let Some(late) = self.passage() else {
            self.tell(from, || "  (lost)".to_owned());
            return;
        };
        let (world, to, answer) = (self.clone(), 1 - from, answer.clone());
        self.exec.spawn(Owner::World, async move {
            world.exec.sleep(late).await;
            if world.cut[from].get() || !world.sites[to].is_up.get() {
                return;
            }
            let node = Node::new(&world, to);
            let asked = world.clone();
            // Answered by a task of the site that is asked, so that it ends with it.
            world.exec.spawn(Owner::Site(to), async move {
                let reply = node.answer(question).await;
                node.danger("before answering").await;
                let Some(late) = asked.passage() else { return };
                let world = asked.clone();
                asked.exec.spawn(Owner::World, async move {
                    world.exec.sleep(late).await;
                    if !world.cut[to].get()
                        && let Some(line) = answer.borrow_mut().take()
                    {
                        // Whoever asked may be gone.
                        drop(line.send(reply));
                    }
                });
            });
        });
    }
}

impl Node {
    /// Asks the other site, for at most `within` of true time.
    pub async fn ask(&self, question: Question, within: u64) -> Result<Reply, Fault> {
        self.danger("before sending").await;
        self.w.tell(self.at, || format!("asks {question:?}"));
        let (line, answer) = oneshot::channel();
        let line = Rc::new(RefCell::new(Some(line)));
        if self.w.chance(self.w.rough.get()) {
            self.w.carry(self.at, question.clone(), &line);
        }
        self.w.carry(self.at, question, &line);
        self.danger("after sending").await;
        let reply = tokio::select! {
            biased;
            reply = answer => reply.map_err(|_| Fault::Lost),
            () = self.w.exec.sleep(within) => Err(Fault::Lost),
        };
        self.w.tell(self.at, || format!("hears {reply:?}"));
        match reply? {
            Reply::Refused { class, epoch } => Err(Fault::Refused { class, epoch }),
            reply => Ok(reply),
        }
    }

    pub async fn ask_plan(&self, within: u64) -> Result<PlanState, Fault> {
        match self.ask(Question::Query, within).await? {
            Reply::State(state) => Ok(state),
            other => panic!("{other:?} for a query"),
        }
    }
}
