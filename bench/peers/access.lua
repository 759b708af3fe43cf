-- Key, windows and balance for nginx with Lua and Redis. It speaks Redis's protocol
-- over nginx's own sockets, since Debian has no package of a client.
local access = {}

local host, port = "{{.RedisHost}}", {{.RedisPort}}
local admit = "{{.Admit}}" -- the digest of admit.lua
local fee = "{{.Fee}}"

local function connect()
	local sock = ngx.socket.tcp()
	sock:settimeout(200)
	local ok, err = sock:connect(host, port)
	if not ok then
		return nil, err
	end
	return sock
end

local function command(...)
	local parts = { "*" .. select("#", ...) .. "\r\n" }
	for i = 1, select("#", ...) do
		local part = tostring((select(i, ...)))
		parts[#parts + 1] = "$" .. #part .. "\r\n" .. part .. "\r\n"
	end
	return table.concat(parts)
end

-- reply reads an answer: a number, a text, false for nothing, or a table of them.
local function reply(sock)
	local line, err = sock:receive("*l")
	if not line then
		return nil, err
	end
	local kind, rest = line:sub(1, 1), line:sub(2)
	if kind == ":" then
		return tonumber(rest)
	elseif kind == "$" then
		local n = tonumber(rest)
		if n < 0 then
			return false
		end
		local text, problem = sock:receive(n + 2)
		return text and text:sub(1, n), problem
	elseif kind == "*" then
		local list = {}
		for i = 1, tonumber(rest) do
			list[i] = reply(sock)
		end
		return list
	end
	return nil, rest
end

local function ask(...)
	local sock, err = connect()
	if not sock then
		return nil, err
	end
	local sent, problem = sock:send(command(...))
	if not sent then
		return nil, problem
	end
	local answer, trouble = reply(sock)
	if answer == nil then
		sock:close()
		return nil, trouble
	end
	sock:setkeepalive(60000, 256)
	return answer
end

-- tenant returns token, account and limits of a key: from memory, or from Redis.
local function tenant(key)
	local known = ngx.shared.tenants
	local record = known:get(key)
	if record == nil then
		local fields, err = ask("HMGET", "key:" .. key, "token", "account", "second", "minute")
		if not fields then
			return nil, err
		end
		if fields[1] then
			record = table.concat(fields, " ")
			known:set(key, record, 30)
		else
			record = ""
			known:set(key, record, 10)
		end
	end
	if record == "" then
		return false
	end
	local token, account, second, minute = record:match("^(%S+) (%S+) (%S+) (%S+)$")
	return { token = token, account = account, second = second, minute = minute }
end

-- What the script's answers mean.
local refusals = { 429, 429, 402 }

function access.check()
	local key = (ngx.var.http_authorization or ""):match("^Bearer (%S+)$")
	if not key then
		return ngx.exit(401)
	end
	local t, err = tenant(key)
	if t == false then
		return ngx.exit(401)
	elseif not t then
		ngx.log(ngx.CRIT, "redis: ", err)
		return ngx.exit(500)
	end
	local verdict, problem = ask("EVALSHA", admit, 3, "second:" .. t.account, "minute:" .. t.account, "balance:" .. t.account,
		t.second, t.minute, fee)
	if not verdict then
		ngx.log(ngx.CRIT, "redis: ", problem)
		return ngx.exit(500)
	elseif verdict > 0 then
		return ngx.exit(refusals[verdict])
	end
	ngx.req.set_header("Authorization", "Bearer " .. t.token)
end

return access
