//! `propane config schema`: the JSON Schema of an app's property list. Needs no configuration.

use clap::{ArgMatches, Command};
use propane_config::{Inputs, schema};

use crate::commands::ConfigCommand;
use crate::commands::formats::to_json;
use crate::output::{Answer, Screen};

#[derive(Debug)]
struct SchemaOptions;

pub(super) fn command() -> Command {
    Command::default().about("Print the JSON Schema (2020-12) of config/app.plist; reads no configuration")
}

pub(super) fn read(_: &ArgMatches) -> Box<dyn ConfigCommand> {
    Box::new(SchemaOptions)
}

impl ConfigCommand for SchemaOptions {
    fn answer(&self, _: &Inputs, _: Screen) -> Answer {
        Answer::fine(to_json(&schema::schema()))
    }
}
