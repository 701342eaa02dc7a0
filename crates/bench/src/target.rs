//! What a workload loads: the services of a side, or the bare echo server, with all that is known about them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::load::{Load, Phase};
use crate::options::Options;
use crate::peer::Peer;
use crate::servers::{Place, Servers};
use crate::services::{Kind, Needs, Services};
use crate::stored::Messages;
use crate::subject::Subject;
use crate::usage::{Meter, Watched};
use crate::values::Values;

/// What all measurements of a run share.
#[derive(Debug)]
pub struct Bench {
    /// The servers.
    pub servers: Servers,
    /// What tokens are signed with.
    pub secret: String,
    /// What to measure, and how long.
    pub options: Options,
}

/// A loaded system.
#[derive(Debug)]
pub struct Target<'a> {
    bench: &'a Bench,
    running: Running,
}

#[derive(Debug)]
enum Running {
    Services { services: Box<Services>, place: Place, messages: Messages },
    Echo(Peer),
}

impl Bench {
    /// Starts what is loaded.
    ///
    /// # Errors
    /// It can't be started, or the subject is no system that takes messages.
    pub async fn target(&self, subject: Subject, needs: Needs) -> Result<Target<'_>> {
        if subject == Subject::Echo {
            return Ok(Target { bench: self, running: Running::Echo(Peer::start().await?) });
        }
        let place = self.servers.make_place().await?;
        self.target_at(place, subject, needs).await
    }

    /// Starts services at a place that was prepared.
    ///
    /// # Errors
    /// As [`Self::target`].
    pub async fn target_at(&self, place: Place, subject: Subject, needs: Needs) -> Result<Target<'_>> {
        let built = |folder: &Option<PathBuf>| folder.clone().map(Kind::Holdfast).context("no folder is named");
        let kind = match subject {
            Subject::Holdfast => built(&self.options.ours)?,
            Subject::Before => built(&self.options.before)?,
            Subject::Twin => Kind::Twin,
            other => anyhow::bail!("{other} takes no messages"),
        };
        let messages = Messages::of(&self.servers.mongo.url(), &place.database).await?;
        let services = Services::start(&self.servers, &place, kind, needs, &self.secret).await?.into();
        Ok(Target { bench: self, running: Running::Services { services, place, messages } })
    }
}

impl Target<'_> {
    /// Where clients connect; a URL a gateway.
    pub fn urls(&self) -> Vec<String> {
        match &self.running {
            Running::Services { services, .. } => services.urls(),
            Running::Echo(peer) => vec![peer.url()],
        }
    }

    /// Everything that works for it, the idle servers included.
    pub fn processes(&self) -> Vec<Watched> {
        let own = match &self.running {
            Running::Services { services, .. } => services.processes(),
            Running::Echo(peer) => vec![peer.process()],
        };
        own.into_iter().chain(self.bench.servers.processes()).collect()
    }

    /// Its services, if it has any.
    ///
    /// # Errors
    /// It is the echo server.
    pub fn services(&mut self) -> Result<&mut Services> {
        match &mut self.running {
            Running::Services { services, .. } => Ok(services),
            Running::Echo(_) => anyhow::bail!("the echo server has no services"),
        }
    }

    /// What belongs to it on the servers.
    ///
    /// # Errors
    /// It is the echo server.
    pub fn place(&self) -> Result<&Place> {
        match &self.running {
            Running::Services { place, .. } => Ok(place),
            Running::Echo(_) => anyhow::bail!("the echo server has no place"),
        }
    }

    /// What MongoDB holds of it; the echo server stores nothing.
    pub fn messages(&self) -> Option<&Messages> {
        match &self.running {
            Running::Services { messages, .. } => Some(messages),
            Running::Echo(_) => None,
        }
    }

    /// Connects users in pairs.
    ///
    /// # Errors
    /// One of them can't connect.
    pub async fn load(&self, bytes: usize) -> Result<Arc<Load>> {
        let url = self.urls().into_iter().next().context("no gateway")?;
        Load::connect(&url, &self.bench.secret, self.bench.options.sockets, bytes).await
    }

    /// Waits until everything is stored that was acknowledged.
    ///
    /// # Errors
    /// MongoDB does not answer, or it takes too long.
    pub async fn drained(&self, load: &Load) -> Result<()> {
        if let Some(messages) = self.messages() {
            let limit = Duration::from_secs_f64(self.bench.options.drain_limit);
            let drained = messages.drained(load.acknowledged().len(), limit).await?;
            ensure!(drained.is_some(), "what was acknowledged is not stored after {limit:?}\n{}", self.logs());
        }
        Ok(())
    }

    /// One phase of load, what it cost, and whether all of it is stored.
    ///
    /// # Errors
    /// The load can't be counted, or MongoDB does not answer.
    pub async fn measured(&self, load: &Load, phase: impl Future<Output = Result<Phase>>) -> Result<Values> {
        let meter = Meter::start(self.processes());
        let phase = phase.await?;
        // What the client does later is not part of the load.
        let client = meter.client();
        let mut drained = None;
        if let Some(messages) = self.messages() {
            let limit = Duration::from_secs_f64(self.bench.options.drain_limit);
            drained = messages.drained(load.acknowledged().len(), limit).await?;
        }
        let mut spent = meter.spent();
        spent.insert("client".to_owned(), client);
        let mut values = Values::default();
        values.phase(&phase);
        values.spent(&spent, phase.messages, "a message");
        if self.messages().is_some() {
            values.add("delivered without a position", phase.without_seq as f64);
            values.drained("the last answer", drained);
        }
        self.verify(load, &mut values).await?;
        Ok(values)
    }

    /// Adds whether all of it is stored, exactly once.
    ///
    /// # Errors
    /// MongoDB does not answer.
    pub async fn verify(&self, load: &Load, values: &mut Values) -> Result<()> {
        if let Some(messages) = self.messages() {
            let limit = Duration::from_secs_f64(self.bench.options.drain_limit);
            values.stored(&messages.verify(&load.acknowledged(), &load.prefix(), limit).await?);
        }
        Ok(())
    }

    /// The ends of the services' logs.
    pub fn logs(&self) -> String {
        match &self.running {
            Running::Services { services, .. } => services.logs(),
            Running::Echo(peer) => peer.program().log_tail(20),
        }
    }

    /// Ends it.
    ///
    /// # Errors
    /// It does not end in time.
    pub async fn end(self) -> Result<()> {
        match self.running {
            Running::Services { services, .. } => services.stop().await,
            Running::Echo(_) => Ok(()),
        }
    }
}
