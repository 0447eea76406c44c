//! A worker's hold on a plan.

use std::ops::Deref;
use std::rc::Rc;
use std::sync::{Arc, mpsc};

use crate::plan::Plan;

/// A plan in use on one worker. Exchanges hold it as long as they run, without touching memory that
/// workers share; the last one sends the plan back to where it came from, because to free 100,000
/// routes takes longer than a worker may pause.
#[derive(Clone)]
pub struct LivePlan(Rc<Held>);

struct Held {
    plan: Option<Arc<Plan>>,
    home: mpsc::Sender<Arc<Plan>>,
}

impl LivePlan {
    /// Takes a plan into use; `home` gets it back.
    pub fn new(plan: Arc<Plan>, home: mpsc::Sender<Arc<Plan>>) -> LivePlan {
        LivePlan(Rc::new(Held { plan: Some(plan), home }))
    }
}

impl Deref for LivePlan {
    type Target = Plan;

    fn deref(&self) -> &Plan {
        self.0.plan.as_ref().expect("held until the drop")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(plan) = self.plan.take() {
            // Nobody there any more: the process ends, and freeing it here keeps nobody waiting.
            let _ = self.home.send(plan);
        }
    }
}
