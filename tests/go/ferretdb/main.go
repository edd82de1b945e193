// Command ferretdb is the lab's database: FerretDB, which speaks MongoDB's wire protocol, over SQLite files.
//
// It starts FerretDB from its library rather than from its own command, since the command reports to its makers over
// the network and asks for a dozen flags that a lab has one answer to. It must not know what is stored in it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/FerretDB/FerretDB/ferretdb"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "ferretdb:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends. The folder for the data is made if it is missing.
func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("ferretdb", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:27017", "`ADDRESS:PORT` to serve on")
	data := flags.String("data", "", "`FOLDER` of the SQLite files, one a database")
	verbose := flags.Bool("verbose", false, "log every command")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *data == "" {
		return errors.New("--data is needed: the folder of the SQLite files")
	}
	folder, err := filepath.Abs(*data)
	if err != nil {
		return fmt.Errorf("--data %q: %w", *data, err)
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}

	level := slog.LevelWarn
	if *verbose {
		level = slog.LevelDebug
	}
	server, err := ferretdb.New(&ferretdb.Config{
		Listener:  ferretdb.ListenerConfig{TCP: *listen},
		Logger:    slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
		Handler:   "sqlite",
		SQLiteURL: (&url.URL{Scheme: "file", Path: folder + "/"}).String(), // a folder only with the closing slash
	})
	if err != nil {
		return err
	}
	return server.Run(ctx)
}
