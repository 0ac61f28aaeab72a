"""Errors of the process node.

    NodeError               anything below
    ├── ConfigError         a container cannot be made as its spec stands: waiting, tried again
    │                       (CreateContainerConfigError); a secret may come later
    ├── VolumeError         a volume is not there yet: FailedMount, tried again
    ├── StartError          the container's process did not start: terminated with exit code 128
    └── SettingsError       the agent's own flags are wrong: it ends with this sentence

Texts go into the pod's status and events: they name the field and never hold a secret's value."""


class NodeError(Exception):
    """Base of this part's errors; the text is for a person."""


class ConfigError(NodeError):
    """A container's configuration cannot be resolved now."""


class VolumeError(NodeError):
    """A volume cannot be set up now; `volume` is its name."""

    def __init__(self, volume: str, message: str) -> None:
        self.volume = volume
        super().__init__(f'MountVolume.SetUp failed for volume "{volume}" : {message}')


class StartError(NodeError):
    """A container's process did not start."""


class SettingsError(NodeError):
    """A flag of the agent is wrong."""
