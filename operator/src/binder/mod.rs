//! The HTTP interfaces of Binder's servers and of its cluster, asked through a host's one connection. I/O and no judgement: a
//! look and a step both use it. Must not know what is described or whether anything should be done.

pub(crate) mod ask;
pub(crate) mod proxy;
