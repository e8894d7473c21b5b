//! Terminals: allocation inside the container, window size, handing the master to a console socket.
