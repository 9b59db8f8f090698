//! The servers that are compared: how each is installed, started and asked.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::form::{Form, Prediction};
use crate::bench::cores::{Cores, keep_to};
use crate::bench::generator::{Client, Requests};
use crate::bench::model::ServedModel;
use crate::bench::peer_python;
use crate::error::{Context as _, Error, Result};
use crate::layout::Layout;
use crate::server::Server;
use crate::session::Session;
use crate::setup;
use crate::{process, terminal};

/// Python's libraries alone take seconds, and on a busy machine more of them.
const READY_MAX: Duration = Duration::from_secs(120);

/// Answers of each server that are compared before anything is measured.
const COMPARED: usize = 100;

/// Two libraries' softmax may differ in the last bits.
const PROBABILITY_DIFFERENCE_MAX: f64 = 1e-6;

/// Whose server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Maker {
    Host,
    FastApi,
    MlServer,
    BentoMl,
}

/// What is needed to start any of them.
pub(super) struct Servers<'a> {
    pub(super) layout: &'a Layout,
    pub(super) model: &'a ServedModel<'a>,
    /// The others that could be installed, with their Pythons.
    peers: Vec<(Maker, PathBuf)>,
    pub(super) cores: Cores,
    /// The cores that servers are started on, and then those of the load.
    places: (Vec<usize>, Vec<usize>),
}

/// Something that `host` is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct HostSubject {
    pub(super) name: &'static str,
    pub(super) form: Form,
    pub(super) path: &'static str,
}

/// A server that has answered.
pub(super) struct Running {
    pub(super) maker: Maker,
    pub(super) server: Server,
    /// From its start to its first answer.
    pub(super) first_answer: Duration,
    /// Where it answers gRPC, if it does.
    grpc: SocketAddr,
}

impl Maker {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::FastApi => "FastAPI",
            Self::MlServer => "MLServer",
            Self::BentoMl => "BentoML",
        }
    }

    /// The forms that it is asked in, the one that is asked first at the front.
    pub(super) fn forms(self) -> &'static [Form] {
        match self {
            Self::Host => &[Form::Json, Form::V2Binary, Form::Grpc],
            Self::FastApi | Self::BentoMl => &[Form::Json],
            Self::MlServer => &[Form::V2Json, Form::Grpc],
        }
    }

    fn first_form(self) -> Form {
        if self == Self::MlServer { Form::V2Json } else { Form::Json }
    }

    fn python(self, layout: &Layout) -> Result<PathBuf> {
        if self == Self::FastApi {
            return peer_python(layout);
        }
        let name = self.name().to_lowercase();
        let folder = layout.cache().join(format!("bench/{name}-venv"));
        let requirements = layout.root().join(format!("benches/python/{name}_requirements.txt"));
        setup::ensure_python(layout, &folder, &requirements)?;
        Ok(folder.join("bin/python"))
    }
}

impl<'a> Servers<'a> {
    /// Installs the peers; one that cannot be installed is told and left out.
    pub(super) fn ensure(layout: &'a Layout, model: &'a ServedModel<'a>) -> Result<Self> {
        let mut peers = Vec::new();
        for maker in [Maker::FastApi, Maker::MlServer, Maker::BentoMl] {
            match maker.python(layout) {
                Ok(python) => peers.push((maker, python)),
                Err(error) => terminal::note(&format!("{} is left out: {error}", maker.name())),
            }
        }
        let cores = Cores::find()?;
        let places = (cores.of_servers().to_vec(), cores.of_load().to_vec());
        keep_to(&places.1)?;
        Ok(Self { layout, model, peers, cores, places })
    }

    /// The same servers, of which none is started on a core of the load, where there are two.
    pub(super) fn apart(&self) -> Result<Self> {
        let (of_server, of_load) = self.cores.apart();
        let places = (of_server.to_vec(), of_load.to_vec());
        keep_to(&places.1)?;
        let (peers, cores) = (self.peers.clone(), self.cores.clone());
        Ok(Self { layout: self.layout, model: self.model, peers, cores, places })
    }

    /// What `host` is asked, where it is measured without the others.
    pub(super) fn subjects(&self, running: &Running) -> Result<Vec<HostSubject>> {
        let mut subjects = Vec::new();
        for &form in Maker::Host.forms() {
            match self.predictions(running, form) {
                Ok(_) => subjects.push(HostSubject { name: form.name(), form, path: form.path() }),
                Err(error) if form == Form::Grpc => {
                    terminal::note(&format!("host is not measured by gRPC: {error}"));
                }
                Err(error) => return Err(error),
            }
        }
        subjects.push(HostSubject { name: "constant", form: Form::Json, path: "/constant" });
        subjects.push(HostSubject { name: "constant, gRPC", form: Form::Grpc, path: "/constant" });
        Ok(subjects)
    }

    /// `host` and the others that are there.
    pub(super) fn makers(&self) -> Vec<Maker> {
        std::iter::once(Maker::Host).chain(self.peers.iter().map(|(maker, _)| *maker)).collect()
    }

    /// Starts a server with the model `mnist`, and waits for its first answer.
    pub(super) fn start(&self, maker: Maker) -> Result<Running> {
        if maker == Maker::Host {
            let options = ["--model", "mnist", "--constant-endpoint"];
            return self.start_host(&self.model.session, options, Form::Json.path());
        }
        let python = self.peers.iter().find(|(peer, _)| *peer == maker).map(|(_, python)| python);
        let python = python.ok_or_else(|| Error::new(format!("{} is not installed", maker.name())))?;
        let (http, grpc) = (free_address()?, free_address()?);
        let peers = self.layout.root().join("benches/python");
        let bundle = self.model.folder.join("bundle");
        let mut command = Command::new(python);
        match maker {
            Maker::BentoMl => {
                command.args(["-m", "bentoml", "serve", "bentoml_peer:Digits", "--host", "127.0.0.1"]);
                command.args(["--port", &http.port().to_string(), "--working-dir"]).arg(peers);
                command.env("HOST_BENCH_BUNDLE", bundle).env("BENTOML_DO_NOT_TRACK", "true");
            }
            Maker::MlServer => {
                command.arg(peers.join("mlserver_peer.py")).arg(bundle);
                command.args([http.port().to_string(), grpc.port().to_string()]);
            }
            Maker::Host | Maker::FastApi => {
                command.arg(peers.join("serving_peer.py")).arg(bundle).arg(http.port().to_string());
            }
        }
        // It would write what it compiled beside the sources.
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        self.answering(maker, &mut command, http, grpc, maker.first_form().path())
    }

    /// Starts `host serve` on a session's state with options, and waits for its first answer to `path`.
    pub(super) fn start_host<'s>(
        &self,
        session: &Session<'_>,
        options: impl IntoIterator<Item = &'s str>,
        path: &str,
    ) -> Result<Running> {
        let address = free_address()?;
        let mut command = session.host(["serve", "--port", &address.port().to_string()]);
        self.answering(Maker::Host, command.args(options), address, address, path)
    }

    /// Starts a server, and waits for its first answer to `path`.
    pub(super) fn answering(
        &self,
        maker: Maker,
        command: &mut Command,
        http: SocketAddr,
        grpc: SocketAddr,
        path: &str,
    ) -> Result<Running> {
        let log = self.model.folder.join(format!("{}.log", maker.name().to_lowercase()));
        let output = std::fs::File::create(&log).and_then(|file| Ok((file.try_clone()?, file)));
        let (stdout, stderr) = output.context(format_args!("write `{}`", log.display()))?;
        let image = self.model.images.get(..1).unwrap_or_default();
        let requests = maker.first_form().requests(http, path, image);
        let started = Instant::now();
        let (of_server, of_load) = &self.places;
        // What this thread starts keeps to the same cores.
        keep_to(of_server)?;
        let server = Server::spawn(command.stdout(Stdio::from(stdout)).stderr(Stdio::from(stderr)), http);
        keep_to(of_load)?;
        let server = server?;
        let mut running = Running { maker, server, first_answer: Duration::ZERO, grpc };
        loop {
            if ask_once(http, &requests).is_ok() {
                running.first_answer = started.elapsed();
                return Ok(running);
            }
            if running.server.ended()?.is_some() || started.elapsed() > READY_MAX {
                return Err(Error::new(format!(
                    "`{}` does not answer: see {}",
                    process::display(command),
                    log.display()
                )));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sees that a server does the same work as `host`, or its time would say nothing; an error says why it does not.
    pub(super) fn compare(&self, running: &Running, form: Form, expected: &[Prediction]) -> Result<()> {
        let found = self.predictions(running, form)?;
        let is_close = |(a, b): (&Prediction, &Prediction)| {
            a.label == b.label && (a.probability - b.probability).abs() <= PROBABILITY_DIFFERENCE_MAX
        };
        if found.len() != expected.len() || !found.iter().zip(expected).all(is_close) {
            return Err(Error::new(format!(
                "{} answers otherwise by {} than host does by JSON: see benches/python",
                running.maker.name(),
                form.name()
            )));
        }
        Ok(())
    }

    /// What a server says to the first images.
    pub(super) fn predictions(&self, running: &Running, form: Form) -> Result<Vec<Prediction>> {
        let address = running.address(form);
        let images = self.model.images.get(..COMPARED).unwrap_or(&self.model.images);
        let requests = form.requests(address, form.path(), images);
        let asked = || format!("ask {} by {}", running.maker.name(), form.name());
        let mut client = Client::open(address, &requests.wire).context(asked())?;
        let predict = |message: &Vec<u8>| {
            let answer = client.ask(message).context(asked())?;
            let failure = answer.failure().unwrap_or_else(|| "its answer is malformed".to_owned());
            form.read(&answer).ok_or_else(|| Error::new(failure)).context(asked())
        };
        requests.messages.iter().map(predict).collect()
    }
}

impl Running {
    /// Where it is asked in `form`.
    pub(super) fn address(&self, form: Form) -> SocketAddr {
        if form == Form::Grpc { self.grpc } else { self.server.address() }
    }
}

fn ask_once(address: SocketAddr, requests: &Requests) -> std::io::Result<()> {
    let mut client = Client::open(address, &requests.wire)?;
    for message in &requests.messages {
        if let Some(failure) = client.ask(message)?.failure() {
            return Err(std::io::Error::other(failure));
        }
    }
    Ok(())
}

/// An address that nobody listens on.
pub(super) fn free_address() -> Result<SocketAddr> {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    free.context("find a free port")
}
