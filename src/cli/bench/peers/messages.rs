//! The protobuf messages of `benches/peers/bench.proto` and, as far as they are needed, of Redpanda Connect's
//! `redpanda.runtime.v1alpha1`. By hand, so that nobody needs `protoc` to build.

use std::collections::HashMap;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Message {
    #[prost(bytes = "vec", tag = "1")]
    pub body: Vec<u8>,
    #[prost(map = "string, string", tag = "2")]
    pub metadata: HashMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Batch {
    #[prost(message, repeated, tag = "1")]
    pub messages: Vec<Message>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Number {
    #[prost(double, tag = "1")]
    pub value: f64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Chunk {
    #[prost(bytes = "vec", tag = "1")]
    pub data: Vec<u8>,
}

/// What a plugin of Redpanda Connect is sent and answers. Fields that the benchmark never sets are left out.
pub(super) mod redpanda {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Message {
        /// One of the two payloads; the other is structured.
        #[prost(bytes = "vec", optional, tag = "1")]
        pub bytes: Option<Vec<u8>>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct MessageBatch {
        #[prost(message, repeated, tag = "1")]
        pub messages: Vec<Message>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Error {
        #[prost(string, tag = "1")]
        pub message: String,
    }

    /// The configuration; here always null.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Value {
        #[prost(int32, optional, tag = "1")]
        pub null_value: Option<i32>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct InitRequest {
        #[prost(message, optional, tag = "1")]
        pub config: Option<Value>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct InitResponse {
        #[prost(message, optional, tag = "1")]
        pub error: Option<Error>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ProcessBatchRequest {
        #[prost(message, optional, tag = "1")]
        pub batch: Option<MessageBatch>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ProcessBatchResponse {
        #[prost(message, repeated, tag = "1")]
        pub batches: Vec<MessageBatch>,
        #[prost(message, optional, tag = "2")]
        pub error: Option<Error>,
    }
}
