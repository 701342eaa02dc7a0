//! Measures Holdfast beside the same design in Node.js, and beside the limits of what both are made of.
//!
//! - [`subject`]: what is measured, and under which loads.
//! - [`runner`]: the rounds, in which the subjects take turns.
//! - [`machine`]: whether the machine is quiet, how fast it is, what it is.
//! - [`servers`] and [`services`]: what runs, for one run and gone with it; [`target`]: what a workload loads.
//! - [`workloads`]: what is measured.
//! - [`load`]: messages in a closed and in an open loop; [`stored`]: whether MongoDB holds what was acknowledged.
//! - [`usage`]: what processes cost; [`values`]: the figures; [`report`]: their medians, as tables and as JSON.
//! - [`peer`]: a bare echo server. The twin is in `peers/`.

pub mod load;
pub mod machine;
pub mod options;
pub mod peer;
pub mod report;
pub mod runner;
pub mod servers;
pub mod services;
pub mod stored;
pub mod subject;
pub mod target;
pub mod usage;
pub mod values;
pub mod workloads;
