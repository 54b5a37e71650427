//! gRPC over a unix socket, by hand as generated code would do it: a client's calls, and the host's own service.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use anyhow::Context as _;
use futures_util::{Stream, StreamExt, future::BoxFuture};
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    client::Grpc,
    codegen::{Service, http},
    server::{NamedService, UnaryService},
    transport::{Channel, Endpoint, Server},
};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::messages::Number;

/// Makes calls of one plugin.
#[derive(Clone)]
pub(super) struct Calls(Grpc<Channel>);

impl Calls {
    /// Connect to a plugin that listens there, or will in a moment.
    pub async fn connect(socket: &Path) -> anyhow::Result<Self> {
        let path: PathBuf = socket.to_owned();
        let connector = service_fn(move |_| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        });
        // The authority is what the plugin sees as the host's name; a path would not do.
        let endpoint = Endpoint::from_static("http://localhost");
        for _ in 0..1000 {
            match endpoint.connect_with_connector(connector.clone()).await {
                Ok(channel) => return Ok(Self(Grpc::new(channel))),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        anyhow::bail!("nobody listens on {}", socket.display())
    }

    /// One message, one answer.
    pub async fn unary<Q, A>(&mut self, path: &'static str, message: Q) -> anyhow::Result<A>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        self.0.ready().await?;
        let path = http::uri::PathAndQuery::from_static(path);
        let response = self.0.unary(Request::new(message), path, ProstCodec::<Q, A>::default()).await?;
        Ok(response.into_inner())
    }

    /// Many messages, one answer.
    pub async fn client_stream<Q, A>(
        &mut self,
        path: &'static str,
        messages: impl Stream<Item = Q> + Send + 'static,
    ) -> anyhow::Result<A>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        self.0.ready().await?;
        let path = http::uri::PathAndQuery::from_static(path);
        let response = self.0.client_streaming(Request::new(messages), path, ProstCodec::<Q, A>::default()).await?;
        Ok(response.into_inner())
    }

    /// Messages both ways over one call.
    pub async fn stream<Q, A>(
        &mut self,
        path: &'static str,
        messages: impl Stream<Item = Q> + Send + 'static,
    ) -> anyhow::Result<Streaming<A>>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        self.0.ready().await?;
        let path = http::uri::PathAndQuery::from_static(path);
        let response = self.0.streaming(Request::new(messages), path, ProstCodec::<Q, A>::default()).await?;
        Ok(response.into_inner())
    }
}

/// The next message of a stream.
pub(super) async fn next<A>(stream: &mut Streaming<A>) -> anyhow::Result<A> {
    Ok(stream.next().await.context("the stream has ended")??)
}

/// The host's functions, for plugins that call back.
#[derive(Clone, Default)]
pub(super) struct HostService {
    /// Whom `Nest` calls; set once the plugin is there.
    pub plugin: Arc<OnceLock<Calls>>,
}

impl HostService {
    /// Serve on this socket until the task is ended.
    pub fn serve(&self, socket: &Path) -> anyhow::Result<tokio::task::JoinHandle<()>> {
        let incoming = UnixListenerStream::new(UnixListener::bind(socket)?);
        let service = self.clone();
        Ok(tokio::spawn(async move {
            // It ends with the benchmark; a plugin that misses it fails its measurement.
            let _ = Server::builder().add_service(service).serve_with_incoming(incoming).await;
        }))
    }
}

impl NamedService for HostService {
    const NAME: &'static str = "kernelbridge.bench.v1.Host";
}

impl Service<http::Request<Body>> for HostService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let host = self.clone();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<Number, Number>::default());
            let response = match request.uri().path() {
                "/kernelbridge.bench.v1.Host/PlusOne" => grpc.unary(PlusOne, request).await,
                "/kernelbridge.bench.v1.Host/Nest" => grpc.unary(Nest(host), request).await,
                _ => Status::unimplemented("no such function").into_http(),
            };
            Ok(response)
        })
    }
}

struct PlusOne;

impl UnaryService<Number> for PlusOne {
    type Response = Number;
    type Future = std::future::Ready<Result<Response<Number>, Status>>;

    fn call(&mut self, request: Request<Number>) -> Self::Future {
        std::future::ready(Ok(Response::new(Number { value: request.into_inner().value + 1.0 })))
    }
}

struct Nest(HostService);

impl UnaryService<Number> for Nest {
    type Response = Number;
    type Future = BoxFuture<'static, Result<Response<Number>, Status>>;

    fn call(&mut self, request: Request<Number>) -> Self::Future {
        let plugin = self.0.plugin.get().cloned();
        Box::pin(async move {
            let mut plugin = plugin.ok_or_else(|| Status::unavailable("no plugin yet"))?;
            let reached: Number = plugin
                .unary("/kernelbridge.bench.v1.Processor/Nest", request.into_inner())
                .await
                .map_err(|error| Status::internal(error.to_string()))?;
            Ok(Response::new(reached))
        })
    }
}
