#!/usr/bin/perl
# chat.pl - an independent reference of the templates: JSONL on stdin to 'ids|mask' lines, for a tokenizer without merges
# SPDX-License-Identifier: MIT
#
# chat.pl TEMPLATE answers|all SPECIAL...    the tokens of the tokenizer are the SPECIALs, the first of which ends a
#                                           document, then the bytes, in the order of ByteLevel's letters
# chat.pl make N                             N lines of conversations of all shapes
use strict;
use warnings;
use JSON::PP;

if ($ARGV[0] eq 'make') {
    srand(3);
    my @words = ('cat', 'Vogel', "\x{e9}t\x{e9}", "\x{65e5}\x{672c}", '<|im_end|>', '<|endoftext|>', "a\nb", ' ', '"q"', "\x{1f600}",
        '<extra_id_1>', "\tx", '{content}', 'fish 12', "\0", '<|eot_id|>', '{eod}', '\\n');
    my $text = sub { my $n = shift; join(' ', 'w', map { $words[int rand @words] } 1 .. 1 + int rand $n) };
    my $json = JSON::PP->new->ascii->canonical;
    for my $i (1 .. $ARGV[1]) {
        my ($line, @turns);
        push @turns, map { [$_ % 2 ? 'assistant' : 'user', $text->(12)] } 0 .. 1 + 2 * int rand 3;
        my $system = $i % 3 ? undef : $text->(5);
        unshift @turns, ['system', $system] if defined $system && $i % 4 == 0;
        $line = { messages => [map { { role => $_->[0], content => $_->[1] } } @turns] } if $i % 4 == 0;
        $line->{messages}[-1]{weight} = $i % 8 ? 0 : 1 if $i % 4 == 0;
        my %as = (user => ('human', 'User')[$i % 2], assistant => ('gpt', 'Assistant')[$i % 2]);
        $line = { conversations => [map { { from => $as{$_->[0]}, value => $_->[1] } } @turns], system => $system // '', mask => 'User' }
            if $i % 4 == 1;
        $line = { prompt => "  p " . $text->(9), completion => $text->(4) . "\n" } if $i % 4 == 2;
        $line = { input => $text->(9), output => $text->(4), other => [1] } if $i % 4 == 3;
        print $json->encode($line), "\n";
    }
    exit;
}

my ($template, $loss, @specials) = @ARGV;
my (%special, %byte, @ids, @mask);
@special{@specials} = 0 .. $#specials;
my @order = (0x21 .. 0x7e, 0xa1 .. 0xac, 0xae .. 0xff, 0 .. 0x20, 0x7f .. 0xa0, 0xad);
@byte{@order} = map { $_ + @specials } 0 .. 255;
my $counts = 0;
sub token { push @ids, $special{$_[0]} // die "no $_[0]"; push @mask, $counts || $loss eq 'all' ? 1 : 0 }
sub text { my $s = shift; utf8::encode($s); push(@ids, $byte{ord $_}), push(@mask, $counts || $loss eq 'all' ? 1 : 0) for split //, $s }
sub trim { my $s = shift; $s =~ s/^[ \t-\r]+//; $s =~ s/[ \t-\r]+$//; $s }

my %wrap = (
    plain => sub { my ($role, $s, $c) = @_; $counts = $c; text($s); token($specials[0]) if $role eq 'assistant' },
    bare => sub { my ($role, $s, $c) = @_; $counts = $c; text($s) },
    nemo => sub {
        my ($role, $s, $c) = @_;
        $counts = $c;
        text(' ') if $role eq 'assistant';
        text(trim($s));
        text(' ') if $role eq 'system';
        token($specials[0]) if $role eq 'assistant';
    },
    chatml => sub {
        my ($role, $s, $c) = @_;
        token('<|im_start|>'), text("$role\n");
        $counts = $c;
        text($s), token('<|im_end|>');
        $counts = 0;
        text("\n");
    },
    nemotron => sub {
        my ($role, $s, $c) = @_;
        token('<extra_id_0>') if $role eq 'system';
        text(ucfirst($role) . "\n");
        $counts = $c;
        text($s . ($role eq 'system' ? "\n\n" : "\n")), token('<extra_id_1>');
    },
    llama3 => sub {
        my ($role, $s, $c) = @_;
        token('<|start_header_id|>'), text($role), token('<|end_header_id|>'), text("\n\n");
        $counts = $c;
        text(trim($s)), token('<|eot_id|>');
    });

while (my $line = <STDIN>) {
    my $j = decode_json($line);
    my @turns = map { [lc($_->{role} // $_->{from}), $_->{content} // $_->{value}, $_->{weight} // 1] } @{ $j->{messages} // $j->{conversations} // [] };
    @turns = (['user', $j->{prompt} // $j->{input}], ['assistant', $j->{completion} // $j->{output}, 1]) unless @turns;
    unshift @turns, ['system', $j->{system}] if ($j->{system} // '') ne '';
    @ids = @mask = ();
    $counts = 0;
    token('<|begin_of_text|>') if $template eq 'llama3';
    token('<extra_id_0>'), text("System\n\n"), token('<extra_id_1>') if $template eq 'nemotron' && $turns[0][0] ne 'system';
    for my $t (@turns) {
        my $role = { human => 'user', gpt => 'assistant' }->{ $t->[0] } // $t->[0];
        $wrap{$template}->($role, $t->[1], $role eq 'assistant' && $t->[2]);
        $counts = 0;
    }
    token($specials[0]) unless $ids[-1] == 0;
    next unless grep { $_ } @mask;
    print "@ids|@mask\n";
}
