//! Background services: promoter, reaper, pruner
