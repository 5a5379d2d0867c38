"""Before customers come: what to build in Chat Flow, who can pass, a test drive of a journey, a trial of a channel."""
