"""Before customers come: the set-up in Chat Flow, a preview and a test drive of a journey, a trial of a channel."""
