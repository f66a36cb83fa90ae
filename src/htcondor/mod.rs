//! What HTCondor says and wants: the job ad and the machine ad, the environment that a starter makes.

pub mod advice;
pub mod chirp;
pub mod classad;
pub mod job;
pub mod submit;
pub mod userlog;

pub use classad::ClassAd;
pub use job::Job;
