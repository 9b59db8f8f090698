use crate::model::Device;

/// The option that says where models are computed.
#[derive(Debug, clap::Args)]
pub(super) struct DeviceArguments {
    /// Where networks are computed: `cuda` is the first GPU of NVIDIA's, if the program was built for it. Scores may differ there
    /// in their last bits.
    #[arg(long, value_enum, value_name = "DEVICE", default_value_t)]
    device: Choice,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum Choice {
    #[default]
    Cpu,
    Cuda,
}

impl DeviceArguments {
    pub(super) fn device(&self) -> Device {
        match self.device {
            Choice::Cpu => Device::Cpu,
            Choice::Cuda => Device::Cuda,
        }
    }
}
